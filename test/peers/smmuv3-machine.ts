import { GuestMemory } from '../../src/memory/guest-memory.ts';
import { hiOf, joinHiLo, loOf, PRIVILEGED, READ, WRITE } from '../../src/memory/index.ts';
import { get } from '../../src/target/fields.ts';
import { CAPABILITIES, type Features, Smmuv3 } from '../../src/target/smmuv3/index.ts';
import { RECORD } from '../../src/target/smmuv3/spec/events.ts';
import { REG } from '../../src/target/smmuv3/spec/registers.ts';
import { NO_PASID } from '../../src/target/target.ts';
import { bdf, ecamConfig, PciFunction } from './pci.ts';
import { Qtest } from './qtest.ts';
import { Edu, IommuTestdev, TESTDEV_PATTERN } from './testdev.ts';

/*
 * Two SMMUv3 with the same guest before them: ours, and QEMU's, programmed by the same register writes and structures. Ours has the
 * features that QEMU's ID registers tell of.
 */

const RAM = 0x4000_0000;
const RAM_BYTES = 0x400_0000;
const ECAM = 0x40_1000_0000n;
const PAGE_1 = 0x1_0000;
/** Queues of 256 entries. */
const QUEUE_LG2 = 8;
const ENABLED = 0b1101;
const WRITER = bdf(0, 4, 0);
const READER = bdf(0, 5, 0);
export const STREAMS = [WRITER, READER] as const;

export const At = {
  streams: RAM + 0x1_0000,
  contexts: RAM + 0x2_0000,
  commands: RAM + 0x3_0000,
  events: RAM + 0x4_0000,
  /** Three pages of stage 1 tables, then three of stage 2. */
  tables: RAM + 0x10_0000,
  secondTables: RAM + 0x11_0000,
  data: RAM + 0x200_0000,
  /** What no access should reach: where writes are looked for that go elsewhere. */
  aside: RAM + 0x3ff_0000,
} as const;

const device = (more = '') => ({
  base: 0x0c00_0000,
  options: ['-machine', 'virt,gic-version=3,its=off', '-device', `arm-smmuv3,primary-bus=pcie.0,id=smmu${more}`],
});

/** Where the SMMU is, and how QEMU is asked for it. The machine's has both stages, the device stage 1 where nothing else is said. */
export const MACHINES = {
  'virt,iommu=smmuv3': { base: 0x0905_0000, options: ['-machine', 'virt,iommu=smmuv3,gic-version=3,its=off'] },
  'arm-smmuv3': device(),
  'arm-smmuv3,stage=nested': device(',stage=nested'),
  'arm-smmuv3,stage=2': device(',stage=2'),
} as const;
export type MachineName = keyof typeof MACHINES;

/** What a step came to on one side. */
export interface Side {
  /** The access got through. */
  readonly done: boolean;
  /** Events since the last step, as words. */
  readonly events: readonly Int32Array[];
  readonly cons: number;
  /** Errors that are active. */
  readonly gerror: number;
}

export class SmmuPeers {
  readonly qemu: Qtest;
  readonly ours: Smmuv3;
  readonly memory: GuestMemory;
  readonly features: Partial<Features>;
  readonly #base: number;
  readonly #testdev: IommuTestdev;
  readonly #edu: Edu;
  #prod = 0;
  #event = 0;

  static async start(name: MachineName): Promise<SmmuPeers> {
    const { base, options } = MACHINES[name];
    const devices = ['-device', 'iommu-testdev,addr=4.0', '-device', 'edu,addr=5.0,dma_mask=0xffffffffffffffff'];
    const qemu = await Qtest.start('aarch64', [...options, '-cpu', 'max', '-m', `${RAM_BYTES >> 20}M`, ...devices]);
    const testdev = new IommuTestdev(qemu, 0x1000_0000);
    const edu = new Edu(qemu, 0x1010_0000);
    await testdev.setUp(await PciFunction.find(ecamConfig(qemu, ECAM), WRITER));
    await edu.setUp(await PciFunction.find(ecamConfig(qemu, ECAM), READER));
    const offsets = { IDR0: REG.IDR0, IDR1: REG.IDR1, IDR3: REG.IDR3, IDR5: REG.IDR5 };
    const features: Partial<Record<string, number>> = {};
    for (const { name: field, register, low, width, allowed } of CAPABILITIES) {
      const value = ((await qemu.readl(base + offsets[register])) >>> low) & (2 ** width - 1);
      if ((allowed as readonly number[]).includes(value)) features[field] = value;
    }
    return new SmmuPeers(qemu, base, testdev, edu, features as Partial<Features>);
  }

  private constructor(qemu: Qtest, base: number, testdev: IommuTestdev, edu: Edu, features: Partial<Features>) {
    this.qemu = qemu;
    this.#base = base;
    this.#testdev = testdev;
    this.#edu = edu;
    this.features = features;
    this.memory = new GuestMemory([{ gpa: BigInt(RAM), buffer: new SharedArrayBuffer(RAM_BYTES) }]);
    this.ours = new Smmuv3({ memory: this.memory, features });
    // The machine leaves its device tree there.
    qemu.fill(RAM, 0x100_0000, 0);
    this.#registers();
  }

  #registers(): void {
    this.write(REG.STRTAB_BASE, 8, BigInt(At.streams));
    this.write(REG.STRTAB_BASE_CFG, 4, 8n);
    this.write(REG.CMDQ_BASE, 8, BigInt(At.commands | QUEUE_LG2));
    this.write(REG.EVENTQ_BASE, 8, BigInt(At.events | QUEUE_LG2));
    this.write(REG.CR2, 4, 2n);
    this.write(REG.CR0, 4, BigInt(ENABLED));
  }

  /** Answers come in order: once a last read has its own, every write before it has been taken. */
  async dispose(): Promise<void> {
    try {
      await this.qemu.readl(this.#base);
    } finally {
      await this.qemu.dispose();
    }
  }

  store(address: number, value: bigint): void {
    this.qemu.writeq(address, value);
    this.memory.store64(0, address, hiOf(value), loOf(value));
  }

  storeWords(address: number, words: Int32Array): void {
    for (let i = 0; i < words.length; i += 2) this.store(address + 4 * i, joinHiLo(words[i + 1], words[i]));
  }

  /** Nothing but zeros where structures and tables are. */
  clear(): void {
    for (const [at, bytes] of [
      [At.streams, 0x4000],
      [At.contexts, 0x1000],
      [At.tables, 0x3000],
      [At.secondTables, 0x4000],
    ] as const) {
      this.qemu.fill(at, bytes, 0);
      new Uint8Array(this.memory.regions[0].buffer, at - RAM, bytes).fill(0);
    }
  }

  write(offset: number, bytes: 4 | 8, value: bigint): void {
    this.ours.write(offset, bytes, value);
    if (bytes === 4) this.qemu.writel(this.#base + offset, Number(value));
    else this.qemu.writeq(this.#base + offset, value);
  }

  command(...commands: readonly (readonly [bigint, bigint])[]): void {
    for (const [low, high] of commands) {
      const at = At.commands + 16 * (this.#prod % 2 ** QUEUE_LG2);
      this.store(at, low);
      this.store(at + 8, high);
      this.#prod = (this.#prod + 1) % 2 ** (QUEUE_LG2 + 1);
    }
    this.write(REG.CMDQ_PROD, 4, BigInt(this.#prod));
  }

  /** CFGI_ALL and TLBI_NSNH_ALL: nothing stays cached on either side. */
  forget(): void {
    this.command([4n, 31n], [0x30n, 0n], [0x46n, 0n]);
  }

  /** The queues begin again, as drivers do it after an error that they cannot mend. */
  async restart(): Promise<void> {
    this.write(REG.CR0, 4, 0b101n);
    this.ours.write(REG.GERRORN, 4, this.ours.read(REG.GERROR, 4));
    this.qemu.writel(this.#base + REG.GERRORN, await this.qemu.readl(this.#base + REG.GERROR));
    this.write(REG.CMDQ_CONS, 4, 0n);
    this.#prod = 0;
    this.write(REG.CMDQ_PROD, 4, 0n);
    this.write(REG.CR0, 4, BigInt(ENABLED));
  }

  /** A device writes 4 bytes, or reads 8, privileged as QEMU takes every access; each side says what became of it. */
  async dma(iova: bigint, writes: boolean): Promise<{ ours: Side; theirs: Side; landed: boolean }> {
    const stream = writes ? WRITER : READER;
    const lg2 = this.ours.translate(stream, NO_PASID, hiOf(iova), loOf(iova), PRIVILEGED | (writes ? WRITE : READ));
    const address = joinHiLo(this.ours.translated[1], this.ours.translated[0]);
    if (!writes) {
      await this.#edu.fetch(iova, 8);
      const sides = await this.sides();
      // A read that fails says so by its event alone, and is made of two accesses.
      const first = sides.theirs.events.slice(0, 1);
      return {
        ours: { ...sides.ours, done: lg2 >= 0 },
        theirs: { ...sides.theirs, events: first, done: lg2 >= 0 && first.length === 0 },
        landed: true,
      };
    }
    const inData = lg2 >= 0 && address >= BigInt(At.data) && address < BigInt(At.data) + 0x100_0000n;
    const look = inData ? address : BigInt(At.aside);
    this.qemu.writel(look, 0);
    this.memory.store32(0, Number(look), 0);
    const result = await this.#testdev.write(iova, look);
    // Tables may come to lie in what devices wrote.
    if (lg2 >= 0 && result !== 'refused') this.memory.store32(hiOf(address), loOf(address), TESTDEV_PATTERN);
    const sides = await this.sides();
    return {
      ours: { ...sides.ours, done: lg2 >= 0 },
      // Outside the data the machine decides; the SMMU's part is that there is no event.
      theirs: { ...sides.theirs, done: result !== 'refused' || (lg2 >= 0 && !inData && sides.theirs.events.length === 0) },
      landed: !inData || result === 'done',
    };
  }

  /** Takes the events, and looks at the command queue. */
  async sides(): Promise<{ ours: Side; theirs: Side }> {
    const offsets = [REG.CMDQ_CONS, REG.GERROR, REG.GERRORN, PAGE_1 + REG.EVENTQ_PROD];
    const [cons, gerror, gerrorn, prod] = await Promise.all(offsets.map((offset) => this.qemu.readl(this.#base + offset)));
    const theirs = await this.#theirEvents(prod);
    const ourProd = Number(this.ours.read(PAGE_1 + REG.EVENTQ_PROD, 4));
    const ours = this.#ourEvents(ourProd);
    // Each side's own index: a lost event would move them apart.
    this.qemu.writel(this.#base + PAGE_1 + REG.EVENTQ_CONS, prod);
    this.ours.write(PAGE_1 + REG.EVENTQ_CONS, 4, BigInt(ourProd));
    if (prod !== ourProd) this.#align();
    else this.#event = prod % 2 ** (QUEUE_LG2 + 1);
    const our = (offset: number) => Number(this.ours.read(offset, 4));
    return {
      ours: { done: true, events: ours, cons: our(REG.CMDQ_CONS), gerror: our(REG.GERROR) ^ our(REG.GERRORN) },
      theirs: { done: true, events: theirs, cons, gerror: gerror ^ gerrorn },
    };
  }

  /** Both event queues begin again. */
  #align(): void {
    this.write(REG.CR0, 4, 0b1001n);
    this.write(PAGE_1 + REG.EVENTQ_PROD, 4, 0n);
    this.write(PAGE_1 + REG.EVENTQ_CONS, 4, 0n);
    this.write(REG.CR0, 4, BigInt(ENABLED));
    this.#event = 0;
  }

  async #theirEvents(prod: number): Promise<Int32Array[]> {
    const records: Int32Array[] = [];
    for (const at of this.#indices(prod)) {
      const bytes = await this.qemu.read(At.events + 32 * at, 32);
      records.push(new Int32Array(new Uint8Array(bytes).buffer));
    }
    return records;
  }

  #ourEvents(prod: number): Int32Array[] {
    return this.#indices(prod).map(
      (at) => new Int32Array(this.memory.regions[0].buffer.slice(At.events - RAM + 32 * at, At.events - RAM + 32 * at + 32)),
    );
  }

  #indices(prod: number): number[] {
    const indices: number[] = [];
    const mask = 2 ** (QUEUE_LG2 + 1) - 1;
    for (let at = this.#event; at !== (prod & mask); at = (at + 1) & mask) indices.push(at % 2 ** QUEUE_LG2);
    return indices;
  }
}

/** Number of a side's only event; 0: none. */
export function eventOf({ events }: Side): number {
  return events.length === 0 ? 0 : get(events[0], RECORD.NUMBER);
}
