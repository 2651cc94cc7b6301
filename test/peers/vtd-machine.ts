import { GuestMemory } from '../../src/memory/guest-memory.ts';
import { hiOf, joinHiLo, loOf, WRITE } from '../../src/memory/index.ts';
import { NO_PASID } from '../../src/target/target.ts';
import { VtdIommu, type VtdIommuOptions } from '../../src/target/vtd/index.ts';
import { PciFunction, portConfig } from './pci.ts';
import { TESTDEV } from './q35.ts';
import { Qtest } from './qtest.ts';
import { DATA, RAM_BYTES, STRUCTURES } from './table-programs.ts';
import { IommuTestdev } from './testdev.ts';

/*
 * Two VT-d units with the same guest before them: ours, and QEMU's, programmed by the same register writes and structures
 * (VT-d D51397-018, chapters 6, 9 and 11).
 */

const VTD = 0xfed9_0000;
const GCMD = 0x18;
const RTADDR = 0x20;
const FSTS = 0x34;
const IQH = 0x80;
const IQT = 0x88;
const IQA = 0x90;
const FRCD = 0x220;
const QIE = 2 ** 26;
const TE = 2 ** 31;
const SRTP = 2 ** 30;

const PAGES = 16;
export const Page = {
  root: STRUCTURES,
  context: STRUCTURES + 0x1000,
  upperContext: STRUCTURES + 0x2000,
  directory: STRUCTURES + 0x3000,
  pasids: STRUCTURES + 0x4000,
  queue: STRUCTURES + 0x5000,
  tables: STRUCTURES + 0x6000,
} as const;

/** What a step came to on one side. */
export interface Side {
  readonly done: boolean;
  /** Reason, source and page of the record; null: none. */
  readonly fault: string | null;
  readonly status: bigint;
  readonly head: bigint;
}

export class VtdPeers {
  readonly qemu: Qtest;
  readonly ours: VtdIommu;
  readonly memory: GuestMemory;
  readonly scalable: boolean;
  readonly #testdev: IommuTestdev;
  #tail = 0;
  #started = false;

  static async start(device: string, options: VtdIommuOptions): Promise<VtdPeers> {
    const qemu = await Qtest.start('x86_64', [
      '-machine',
      'q35',
      '-m',
      `${RAM_BYTES >> 20}M`,
      '-device',
      device,
      '-device',
      'iommu-testdev,addr=4.0',
    ]);
    const testdev = new IommuTestdev(qemu, 0xe000_0000);
    await testdev.setUp(await PciFunction.find(portConfig(qemu), TESTDEV));
    return new VtdPeers(qemu, testdev, options);
  }

  private constructor(qemu: Qtest, testdev: IommuTestdev, options: VtdIommuOptions) {
    this.qemu = qemu;
    this.#testdev = testdev;
    this.scalable = options.scalableMode ?? false;
    // All of RAM: a pointer that is wrong by a bit leads to zeros on both sides.
    this.memory = GuestMemory.ofBytes(RAM_BYTES);
    this.ours = new VtdIommu({ faultRecords: 1, ...options }, { memory: this.memory });
  }

  /** Answers come in order: once a last read has its own, every write before it has been taken. */
  async dispose(): Promise<void> {
    try {
      await this.qemu.readl(VTD + FSTS);
    } finally {
      await this.qemu.dispose();
    }
  }

  store(address: number, value: bigint): void {
    this.qemu.writeq(address, value);
    this.memory.store64(0, address, hiOf(value), loOf(value));
  }

  write(offset: number, bytes: 4 | 8, value: bigint): void {
    this.ours.write(offset, bytes, value);
    if (bytes === 4) this.qemu.writel(VTD + offset, Number(value));
    else this.qemu.writeq(VTD + offset, value);
  }

  /** A root table, empty contexts and tables, translation. The queue goes on: QEMU turns it off only where it is empty. */
  setUp(): void {
    this.qemu.fill(STRUCTURES, PAGES * 4096, 0);
    new Uint8Array(this.memory.regions[0].buffer, STRUCTURES, PAGES * 4096).fill(0);
    this.store(Page.root, BigInt(Page.context) | 1n);
    this.store(Page.root + 8, this.scalable ? BigInt(Page.upperContext) | 1n : 0n);
    if (!this.#started) {
      this.write(IQA, 8, BigInt(Page.queue) | (this.scalable ? 1n << 11n : 0n));
      this.write(GCMD, 4, BigInt(QIE));
      this.write(RTADDR, 8, BigInt(Page.root) | (this.scalable ? 1n << 10n : 0n));
      this.write(GCMD, 4, BigInt(QIE + SRTP));
      this.write(GCMD, 4, BigInt(QIE + TE));
      this.#started = true;
    }
    this.forget();
  }

  /** A descriptor that stopped a queue becomes one that does nothing, as drivers do it (6.5.2.11), and both go on. */
  recover({ ours, theirs }: { readonly ours: Side; readonly theirs: Side }): void {
    for (const head of [ours.head, theirs.head])
      for (let at = 0; at < (this.scalable ? 32 : 16); at += 8) this.store(Page.queue + Number(head) + at, at === 0 ? 0x45n : 0n);
    this.write(FSTS, 4, 0x70n);
    this.write(IQT, 8, BigInt(this.#tail));
  }

  submit(...descriptors: readonly (readonly bigint[])[]): void {
    const bytes = this.scalable ? 32 : 16;
    for (const descriptor of descriptors) {
      for (let at = 0; at < bytes; at += 8) this.store(Page.queue + this.#tail + at, descriptor[at / 8] ?? 0n);
      this.#tail = (this.#tail + bytes) % 4096;
    }
    this.write(IQT, 8, BigInt(this.#tail));
  }

  /** Nothing stays cached on either side. */
  forget(): void {
    this.submit([0x11n], ...(this.scalable ? [[0x37n]] : []), [0x12n]);
  }

  /** A device writes 4 bytes; each side says what became of it. */
  async dma(iova: bigint): Promise<{ ours: Side; theirs: Side; landed: boolean }> {
    const lg2 = this.ours.translate(TESTDEV, NO_PASID, hiOf(iova), loOf(iova), WRITE);
    const address = joinHiLo(this.ours.translated[1], this.ours.translated[0]);
    const inData = lg2 >= 0 && address >= BigInt(DATA) && address < BigInt(DATA) + 0x100_0000n;
    const look = inData ? address : BigInt(DATA) + 0x0f00_0000n;
    this.qemu.writel(look, 0);
    const result = await this.#testdev.write(iova, look);
    const sides = await this.sides();
    return {
      ours: { ...sides.ours, done: lg2 >= 0 },
      // Outside the data the machine decides; the unit's part is that no fault is recorded.
      theirs: { ...sides.theirs, done: result !== 'refused' || (lg2 >= 0 && !inData && sides.theirs.fault === null) },
      landed: !inData || result === 'done',
    };
  }

  /** Takes the fault records, and looks at the queue. */
  async sides(): Promise<{ ours: Side; theirs: Side }> {
    const offsets: [number, 4 | 8][] = [
      [FRCD, 8],
      [FRCD + 8, 8],
      [FSTS, 4],
      [IQH, 8],
    ];
    const theirs = await Promise.all(
      offsets.map(async ([offset, bytes]) => (bytes === 4 ? BigInt(await this.qemu.readl(VTD + offset)) : this.qemu.readq(VTD + offset))),
    );
    const ours = offsets.map(([offset, bytes]) => this.ours.read(offset, bytes));
    this.write(FRCD + 12, 4, 1n << 31n);
    this.write(FSTS, 4, 1n);
    return { ours: sideOf(ours), theirs: sideOf(theirs) };
  }
}

function sideOf([low, high, status, head]: readonly bigint[]): Side {
  const record = `reason 0x${((high >> 32n) & 0xffn).toString(16)} source 0x${(high & 0xffffn).toString(16)} page 0x${(low >> 12n).toString(16)}`;
  return { done: true, fault: high >> 63n === 0n ? null : record, status: status & 0x70n, head };
}
