import { hiOf, loOf } from '../../../src/memory/address.ts';
import { GuestMemory } from '../../../src/memory/guest-memory.ts';
import { AmdV1Table } from '../../../src/pagetable/amd-v1.ts';
import { X86Table } from '../../../src/pagetable/x86.ts';
import { AmdIommu, type AmdIommuOptions } from '../../../src/target/amd/index.ts';
import { GuestPages } from '../guest-pages.ts';

export const RAM_PAGES = 512;
/** Pages that the driver uses: device table (of 256 devices), command buffer, event log, PPR log, where completions are stored. */
const DEVICE_TABLE = 1;
const COMMANDS = 4;
const EVENTS = 5;
const PPRS = 6;
export const DONE = 7n * 4096n;
export const INTERRUPTS = 8;
const POOL = 16;
const POOL_END = 256;

export const Reg = {
  deviceTable: 0x00,
  commandBase: 0x08,
  eventBase: 0x10,
  control: 0x18,
  exclusionBase: 0x20,
  exclusionLimit: 0x28,
  efr: 0x30,
  pprBase: 0x38,
  hardwareEvent: 0x40,
  hardwareStatus: 0x50,
  segment1: 0x100,
  xtGeneral: 0x170,
  xtPpr: 0x178,
  efr2: 0x1a0,
  commandHead: 0x2000,
  commandTail: 0x2008,
  eventHead: 0x2010,
  eventTail: 0x2018,
  status: 0x2020,
  pprHead: 0x2030,
  pprTail: 0x2038,
} as const;

/** IommuEn, EventLogEn, CmdBufEn, PprLogEn, PprEn, GTEn, GCR3TRPMode. */
export const ON = 1n | (1n << 2n) | (1n << 12n) | (1n << 13n) | (1n << 15n) | (1n << 16n) | (1n << 58n);

/** What a device table entry is made of. */
export interface Dte {
  readonly v?: boolean;
  readonly tv?: boolean;
  readonly mode?: number;
  readonly root?: number;
  readonly permission?: number;
  readonly domain?: number;
  readonly had?: number;
  readonly gcr3?: number;
  readonly glx?: number;
  readonly giov?: boolean;
  readonly guestLevels?: 4 | 5;
  /** Other bits, by doubleword. */
  readonly bits?: readonly [bigint, bigint, bigint, bigint];
}

export class Guest {
  readonly memory: GuestMemory;
  readonly pool: GuestPages;
  readonly iommu: AmdIommu;
  /** What the IOMMU leaves for later. */
  readonly later: (() => void)[] = [];
  readonly interrupts: unknown[] = [];
  readonly responses: unknown[] = [];
  readonly invalidations: unknown[] = [];
  /** Whether devices answer in time. */
  answersInvalidations = true;

  constructor(options: Partial<AmdIommuOptions> = {}, memory = GuestMemory.ofBytes(RAM_PAGES * 4096)) {
    this.memory = memory;
    this.pool = new GuestPages(memory, POOL, POOL_END);
    this.iommu = new AmdIommu({
      memory,
      // What one access leaves goes on with the next: a test that is over leaves nothing to those behind it.
      schedule: (work) => void this.later.push(work),
      interrupt: (message) => void this.interrupts.push(message),
      completePageRequest: (response) => void this.responses.push(response),
      invalidateDevice: (invalidation) => this.invalidations.push(invalidation) > 0 && this.answersInvalidations,
      ...options,
    });
  }

  start(control = ON): void {
    this.write(Reg.deviceTable, (BigInt(DEVICE_TABLE) << 12n) | 1n);
    this.write(Reg.commandBase, (BigInt(COMMANDS) << 12n) | (8n << 56n));
    this.write(Reg.eventBase, (BigInt(EVENTS) << 12n) | (8n << 56n));
    this.write(Reg.pprBase, (BigInt(PPRS) << 12n) | (8n << 56n));
    this.write(Reg.control, control);
  }

  read(offset: number): bigint {
    return this.iommu.read(offset, 8);
  }
  write(offset: number, value: bigint): void {
    this.iommu.write(offset, 8, value);
  }

  store(address: bigint, value: bigint): void {
    this.memory.store64(hiOf(address), loOf(address), hiOf(value), loOf(value));
  }
  load(address: bigint): bigint {
    this.memory.load64(hiOf(address), loOf(address));
    return (BigInt(this.memory.word[1] >>> 0) << 32n) | BigInt(this.memory.word[0] >>> 0);
  }

  /** A host table, and a guest table. */
  v1(levels: 1 | 2 | 3 | 4 | 5 | 6 = 3, accessedDirty: 'none' | 'both' = 'none'): { root: number; table: AmdV1Table } {
    const root = this.pool.allocate(1);
    return { root, table: new AmdV1Table(this.memory, { levels, root, allocator: this.pool, accessedDirty }) };
  }
  v2(levels: 4 | 5 = 4): { root: number; table: X86Table } {
    const root = this.pool.allocate(1);
    return { root, table: new X86Table(this.memory, { levels, root, allocator: this.pool }) };
  }

  /** Stores an entry; `invalidate` makes it count. */
  setDevice(device: number, dte: Dte): void {
    const { v = true, tv = true, mode = 0, root = 0, permission = 3, domain = 0, had = 0, glx = 0, bits = [0n, 0n, 0n, 0n] } = dte;
    const gcr3 = BigInt(dte.gcr3 ?? 0);
    const words = [
      BigInt(Number(v) | (Number(tv) << 1) | (had << 7) | (mode << 9)) |
        (BigInt(root) << 12n) |
        (BigInt(dte.giov ?? false) << 54n) |
        (BigInt(dte.gcr3 !== undefined) << 55n) |
        (BigInt(glx) << 56n) |
        ((gcr3 & 7n) << 58n) |
        (BigInt(permission) << 61n),
      BigInt(domain) | (((gcr3 >> 3n) & 0xffffn) << 16n) | ((gcr3 >> 19n) << 43n),
      BigInt(dte.guestLevels === 5) << 54n,
      0n,
    ];
    words.forEach((word, i) => {
      this.store(BigInt(DEVICE_TABLE * 4096 + 32 * device + 8 * i), word | bits[i]);
    });
  }

  /** Puts commands into the buffer and lets them run. */
  command(...commands: readonly (readonly [bigint, bigint])[]): void {
    let tail = Number(this.read(Reg.commandTail));
    for (const [low, high] of commands) {
      this.store(BigInt(COMMANDS * 4096 + tail), low);
      this.store(BigInt(COMMANDS * 4096 + tail + 8), high);
      tail = (tail + 16) & 0xfff;
    }
    this.write(Reg.commandTail, BigInt(tail));
  }

  /** Events that have not been read, as doublewords. */
  events(): [bigint, bigint][] {
    return this.#records(EVENTS, Reg.eventHead, Reg.eventTail);
  }
  pageRequests(): [bigint, bigint][] {
    return this.#records(PPRS, Reg.pprHead, Reg.pprTail);
  }
  #records(page: number, head: number, tail: number): [bigint, bigint][] {
    const records: [bigint, bigint][] = [];
    for (let at = Number(this.read(head)); at !== Number(this.read(tail)); at = (at + 16) & 0xfff) {
      records.push([this.load(BigInt(page * 4096 + at)), this.load(BigInt(page * 4096 + at + 8))]);
      this.write(head, BigInt((at + 16) & 0xfff));
    }
    return records;
  }

  /** Where an access lands, or the negative fault. */
  access(device: number, iova: bigint, access: number, pasid = -1): bigint {
    const lg2 = this.iommu.translate(device, pasid, hiOf(iova), loOf(iova), access);
    const [lo, hi] = this.iommu.translated;
    return lg2 < 0 ? BigInt(lg2) : (BigInt(hi >>> 0) << 32n) | BigInt(lo >>> 0);
  }
}

const op = (code: number) => BigInt(code) << 60n;
export const completionWait = (flags = 1n, data = 0x1234n, address = DONE): [bigint, bigint] => [op(1) | flags | address, data];
export const invalidateDevice = (device: number): [bigint, bigint] => [op(2) | BigInt(device), 0n];
export const invalidateAll = (): [bigint, bigint] => [op(8), 0n];
/** `lg2`: bytes, 12 for one page without S, 64 for all. */
export function invalidatePages(domain: number, pfn = 0, lg2 = 64, pasid = -1): [bigint, bigint] {
  const sized = lg2 > 12 ? (BigInt(pfn) << 12n) | ((1n << BigInt(lg2 - 1)) - 0x1000n) | 3n : (BigInt(pfn) << 12n) | 2n;
  return [op(3) | (BigInt(domain) << 32n) | BigInt(Math.max(pasid, 0)), sized | (pasid >= 0 ? 4n : 0n)];
}
