import { hiOf, loOf } from '../../../src/memory/address.ts';
import { GuestMemory } from '../../../src/memory/guest-memory.ts';
import { ArmTable, type ArmTableConfig } from '../../../src/pagetable/arm.ts';
import { type Field, get, put, putWide, type WideField } from '../../../src/target/fields.ts';
import { Smmuv3, type Smmuv3Options } from '../../../src/target/smmuv3/index.ts';
import { CD } from '../../../src/target/smmuv3/spec/cd.ts';
import { OPCODE } from '../../../src/target/smmuv3/spec/commands.ts';
import { RECORD } from '../../../src/target/smmuv3/spec/events.ts';
import { REG } from '../../../src/target/smmuv3/spec/registers.ts';
import { STE } from '../../../src/target/smmuv3/spec/ste.ts';
import { GuestPages } from '../guest-pages.ts';

export const RAM_PAGES = 512;
/** Pages that the driver uses: stream table of 256 streams, commands, events, page requests, descriptors; then a pool for tables. */
export const STREAM_TABLE = 0x4000;
export const COMMANDS = 0x8000;
export const EVENTS = 0xa000;
export const PRIS = 0xc000;
export const CONTEXTS = 0xd000;
export const DONE = 0xf000;
const POOL = 0x10;
const POOL_END = 256;
/** Entries of the queues. */
export const QUEUE_LG2 = 8;
export const PAGE_1 = 0x1_0000;

export type Command = readonly [bigint, bigint];
type Fields = Readonly<Record<string, Field | WideField>>;
type Values<Structure extends Fields> = { readonly [Name in keyof Structure]?: number };

/** A structure's words with these fields. */
export function structure<Structure extends Fields>(fields: Structure, values: Values<Structure>, words = 16): Int32Array {
  const made = new Int32Array(words);
  for (const [name, value] of Object.entries(values)) {
    const field = fields[name];
    if ('mask' in field) put(made, field, value ?? 0);
    else putWide(made, field, value ?? 0);
  }
  return made;
}

export type TableOptions = Partial<Omit<ArmTableConfig, 'root' | 'allocator'>>;
export interface Table {
  readonly table: ArmTable;
  readonly root: number;
  readonly config: ArmTableConfig;
}

/** What a driver does, with a stream table of 256 entries, one level. */
export class Guest {
  readonly memory: GuestMemory;
  readonly pool: GuestPages;
  readonly smmu: Smmuv3;
  /** What the SMMU leaves for later. */
  readonly later: (() => void)[] = [];
  readonly interrupts: string[] = [];
  readonly messages: [bigint, number][] = [];
  readonly invalidations: unknown[] = [];
  readonly responses: unknown[] = [];
  readonly ended: unknown[] = [];
  readonly untagged: string[] = [];
  /** Whether devices answer invalidations. */
  devicesAnswer = true;

  constructor(options: Partial<Smmuv3Options> = {}, memory = GuestMemory.ofBytes(RAM_PAGES * 4096)) {
    this.memory = memory;
    this.pool = new GuestPages(memory, POOL, POOL_END);
    this.smmu = new Smmuv3({
      memory,
      // What one access leaves goes on with the next: a test that is over leaves nothing to those behind it.
      schedule: (work) => void this.later.push(work),
      interrupt: (source) => void this.interrupts.push(source),
      message: (address, data) => {
        this.messages.push([address, data]);
        return address < 1n << 40n;
      },
      stalls: { ended: (stall) => void this.ended.push(stall), untagged: (action) => void this.untagged.push(action) },
      invalidateDevice: (invalidation) => {
        this.invalidations.push(invalidation);
        return this.devicesAnswer;
      },
      pageResponse: (response) => void this.responses.push(response),
      ...options,
    });
  }

  /** SMMUEN, EVENTQEN, CMDQEN. */
  start(cr0 = 0b1101): this {
    this.write64(REG.STRTAB_BASE, BigInt(STREAM_TABLE));
    this.write(REG.STRTAB_BASE_CFG, 8);
    this.write64(REG.CMDQ_BASE, BigInt(COMMANDS | QUEUE_LG2));
    this.write64(REG.EVENTQ_BASE, BigInt(EVENTS | QUEUE_LG2));
    this.write64(REG.PRIQ_BASE, BigInt(PRIS | QUEUE_LG2));
    this.write(REG.CR2, 2);
    this.write(REG.CR0, cr0);
    return this;
  }

  read(offset: number): number {
    return Number(this.smmu.read(offset, 4));
  }
  write(offset: number, value: number): void {
    this.smmu.write(offset, 4, BigInt(value >>> 0));
  }
  write64(offset: number, value: bigint): void {
    this.smmu.write(offset, 8, value);
  }

  storeWords(address: number, words: ArrayLike<number>): void {
    for (let i = 0; i < words.length; i += 2) this.memory.store64(0, address + 4 * i, words[i + 1], words[i]);
  }
  store(address: number, value: bigint): void {
    this.memory.store64(0, address, hiOf(value), loOf(value));
  }
  load(address: number): bigint {
    this.memory.load64(0, address);
    return (BigInt(this.memory.word[1] >>> 0) << 32n) | BigInt(this.memory.word[0] >>> 0);
  }

  /** An empty table. */
  table(options: TableOptions = {}): Table {
    const config = { stage: 1 as const, granuleLg2: 12 as const, inputBits: 39, outputBits: 48, ...options };
    const stride = config.granuleLg2 - 3;
    const levels = config.startLevel === undefined ? Math.ceil((config.inputBits - config.granuleLg2) / stride) : 4 - config.startLevel;
    const bytes = 8 * 2 ** (config.inputBits - config.granuleLg2 - stride * (levels - 1));
    const root = this.pool.allocate(Math.max(1, bytes / 4096, 2 ** (config.granuleLg2 - 12)));
    const made = { ...config, root: BigInt(root) << 12n };
    return { root, config: made, table: new ArmTable(this.memory, { ...made, allocator: this.pool }) };
  }

  /** Stores an entry; CFGI_STE makes it count. */
  setStream(stream: number, values: Values<typeof STE>): void {
    this.storeWords(STREAM_TABLE + 64 * stream, structure(STE, { V: 1, ...values }));
  }
  /** Stores the descriptor of an index of the table at CONTEXTS. */
  setContext(index: number, values: Values<typeof CD>, at = CONTEXTS): void {
    this.storeWords(at + 64 * index, structure(CD, values));
  }

  /** Puts commands into the queue and lets them run. */
  command(...commands: readonly Command[]): void {
    let prod = this.read(REG.CMDQ_PROD);
    for (const [low, high] of commands) {
      const at = COMMANDS + 16 * (prod % 2 ** QUEUE_LG2);
      this.store(at, low);
      this.store(at + 8, high);
      prod = (prod + 1) % 2 ** (QUEUE_LG2 + 1);
    }
    this.write(REG.CMDQ_PROD, prod);
  }

  /** CMDQ_CONS.ERR, if the queue has stopped. */
  get error(): number {
    const active = (this.read(REG.GERROR) ^ this.read(REG.GERRORN)) & 1;
    return active === 0 ? 0 : (this.read(REG.CMDQ_CONS) >>> 24) & 0x7f;
  }

  /** Events that have not been read, as words. */
  events(): Int32Array[] {
    return this.records(EVENTS, 32, REG.EVENTQ_PROD, REG.EVENTQ_CONS);
  }
  records(base: number, bytes: number, prodAt: number, consAt: number): Int32Array[] {
    const records: Int32Array[] = [];
    const mask = 2 ** (QUEUE_LG2 + 1) - 1;
    const prod = this.read(PAGE_1 + prodAt);
    for (let at = this.read(PAGE_1 + consAt) & mask; at !== (prod & mask); at = (at + 1) & mask) {
      const record = new Int32Array(bytes / 4);
      for (let i = 0; i < bytes / 8; i++) {
        this.memory.load64(0, base + bytes * (at % 2 ** QUEUE_LG2) + 8 * i);
        record.set(this.memory.word, 2 * i);
      }
      records.push(record);
      this.write(PAGE_1 + consAt, ((at + 1) & mask) | (prod & (1 << 31)));
    }
    return records;
  }

  /** Numbers of the events that have not been read. */
  numbers(): number[] {
    return this.events().map((words) => get(words, RECORD.NUMBER));
  }

  /** Where an access lands, or the negative fault. */
  access(stream: number, iova: bigint, access: number, substream = -1): bigint {
    const lg2 = this.smmu.translate(stream, substream, hiOf(iova), loOf(iova), access);
    const [lo, hi] = this.smmu.translated;
    return lg2 < 0 ? BigInt(lg2) : (BigInt(hi >>> 0) << 32n) | BigInt(lo >>> 0);
  }
}

const op = (code: number, stream = 0) => BigInt(code) | (BigInt(stream) << 32n);
export const cfgiSte = (stream: number): Command => [op(OPCODE.CFGI_STE, stream), 1n];
export const cfgiAll = (): Command => [op(OPCODE.CFGI_STE_RANGE), 31n];
export const cfgiCd = (stream: number, substream = 0): Command => [op(OPCODE.CFGI_CD, stream) | (BigInt(substream) << 12n), 1n];
export const sync = (low = 0n, high = 0n): Command => [op(OPCODE.SYNC) | low, high];
export const tlbiAll = (): Command => [op(OPCODE.TLBI_NSNH_ALL), 0n];
export const tlbiAsid = (asid: number, vmid = 0): Command => [op(OPCODE.TLBI_NH_ASID, vmid) | (BigInt(asid) << 48n), 0n];
export const tlbiVa = (asid: number, pfn: number, vmid = 0): Command => [
  op(OPCODE.TLBI_NH_VA, vmid) | (BigInt(asid) << 48n),
  (BigInt(pfn) << 12n) | 1n,
];
export const tlbiIpa = (vmid: number, pfn: number): Command => [op(OPCODE.TLBI_S2_IPA, vmid), (BigInt(pfn) << 12n) | 1n];
export const tlbiVmid = (vmid: number): Command => [op(OPCODE.TLBI_S12_VMALL, vmid), 0n];
/** (num + 1) × 2^scale granules of 4K (tg 1), 16K (2) or 64K (3). */
export function tlbiRange(
  asid: number,
  pfn: number,
  { num, scale, tg = 1, ttl = 0 }: { num: number; scale: number; tg?: number; ttl?: number },
): Command {
  const range = (BigInt(num) << 12n) | (BigInt(scale) << 20n);
  return [op(OPCODE.TLBI_NH_VA) | range | (BigInt(asid) << 48n), (BigInt(pfn) << 12n) | (BigInt(tg) << 10n) | (BigInt(ttl) << 8n)];
}

const TG0 = { 12: 0, 14: 2, 16: 1 } as const;
const TG1 = { 12: 2, 14: 1, 16: 3 } as const;
const SIZES = [32, 36, 40, 42, 44, 48, 52];

/** Fields of a descriptor for one table, or for two; the faults of a driver: recorded, aborted. */
export function contextOf(asid: number, { config, root }: Table, upper?: Table): Values<typeof CD> {
  return {
    V: 1,
    AA64: 1,
    A: 1,
    R: 1,
    ASID: asid,
    T0SZ: 64 - config.inputBits,
    TG0: TG0[config.granuleLg2],
    IPS: SIZES.indexOf(config.outputBits),
    TTB0: root * 256,
    ...(upper === undefined
      ? { EPD1: 1 }
      : { T1SZ: 64 - upper.config.inputBits, TG1: TG1[upper.config.granuleLg2], TTB1: upper.root * 256 }),
  };
}

/** Fields of an entry for stage 2 with a table. */
export function stage2Of(vmid: number, { config, root }: Table): Values<typeof STE> {
  const { granuleLg2, inputBits, outputBits, startLevel } = config;
  const start = startLevel ?? 4 - Math.ceil((inputBits - granuleLg2) / (granuleLg2 - 3));
  return {
    S2VMID: vmid,
    S2T0SZ: 64 - inputBits,
    S2SL0: granuleLg2 === 12 ? (start === -1 ? 0 : start === 3 ? 3 : 2 - start) : 3 - start,
    S2SL0_2: Number(start === -1),
    S2TG: TG0[granuleLg2],
    S2PS: SIZES.indexOf(outputBits),
    S2AA64: 1,
    S2R: 1,
    S2TTB: root * 256,
  };
}
