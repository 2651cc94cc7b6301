import { hiOf, loOf } from '../../../src/memory/address.ts';
import { GuestMemory } from '../../../src/memory/guest-memory.ts';
import { type RiscvMode, RiscvTable } from '../../../src/pagetable/riscv.ts';
import { RiscvIommu, type RiscvIommuConfig, type RiscvIommuSurroundings } from '../../../src/target/riscv/index.ts';
import { GuestPages } from '../guest-pages.ts';

/** Every feature of version 1.0 and its extensions, both kinds of interrupt, 46 bits of physical address. */
export const EVERYTHING =
  0x10n | (0xfn << 8n) | (3n << 14n) | (0xfn << 16n) | (0x7fn << 21n) | (2n << 28n) | (3n << 30n) | (46n << 32n) | (0x3fn << 38n);

/** Pages that the guest's driver uses. */
export const DDT = 1;
const CQ = 2;
const FQ = 3;
const PQ = 4;
export const FENCE = 5;
const POOL = 16;

/** Offsets of registers ("Register layout"). */
export const Reg = {
  fctl: 8,
  ddtp: 16,
  cqb: 24,
  cqh: 32,
  cqt: 36,
  fqb: 40,
  fqh: 48,
  fqt: 52,
  pqb: 56,
  pqh: 64,
  pqt: 68,
  cqcsr: 72,
  fqcsr: 76,
  pqcsr: 80,
  ipsr: 84,
} as const;

/** What the driver puts into a device-context ("Device-context fields"). */
export interface Context {
  /** The memory-resident MSI page table's root and the one page of addresses that it serves (DC.msiptp Flat, mask 0). */
  readonly msi?: { readonly root: number; readonly pattern: number };
  /** With PDTV in tc: the process directory, PD8 1, PD17 2, PD20 3. */
  readonly first?: { readonly mode: 0 | 1 | 2 | 3 | 8 | 9 | 10; readonly root: number; readonly pscid: number };
  readonly second?: { readonly mode: 0 | 8 | 9 | 10; readonly root: number; readonly gscid: number };
  /** Bits of tc beside V. */
  readonly tc?: number;
  readonly valid?: boolean;
}

export interface GuestTable {
  readonly root: number;
  readonly table: RiscvTable;
}

/** A guest's driver: its tables and queues in guest memory, and the IOMMU that it drives. The IOMMU uses a one-level directory. */
export class Guest {
  iommu: RiscvIommu;
  readonly memory: GuestMemory;
  readonly pool: GuestPages;
  readonly config: RiscvIommuConfig;
  /** What the IOMMU leaves for later. */
  readonly later: (() => void)[] = [];

  constructor(
    config: Partial<RiscvIommuConfig> = {},
    ramPages = 1024,
    surroundings: Partial<RiscvIommuSurroundings> = {},
    memory = GuestMemory.ofBytes(ramPages * 4096, 0x7000_0000_0000n),
  ) {
    this.config = { capabilities: EVERYTHING, ...config };
    this.memory = memory;
    this.pool = new GuestPages(memory, POOL, Math.floor(ramPages * 0.75));
    // What one access leaves goes on with the next: a test that is over leaves nothing to those behind it.
    this.iommu = new RiscvIommu(this.config, { memory, schedule: (work) => void this.later.push(work), ...surroundings });
  }

  /** Queues on, directory on. */
  start(): void {
    for (const [base, page] of [
      [Reg.cqb, CQ],
      [Reg.fqb, FQ],
      [Reg.pqb, PQ],
    ])
      this.iommu.write(base, 8, (BigInt(page) << 10n) | (base === Reg.fqb ? 6n : 7n));
    for (const csr of [Reg.cqcsr, Reg.fqcsr, Reg.pqcsr]) this.iommu.write(csr, 4, 3n);
    this.setMode(2);
  }

  /** ddtp: Off 0, Bare 1, 1LVL 2. */
  setMode(mode: number): void {
    this.iommu.write(Reg.ddtp, 8, (BigInt(DDT) << 10n) | BigInt(mode));
  }

  /** A table of the guest's own, with nothing in it. */
  table(mode: RiscvMode, secondStage = false, bigEndian = false): GuestTable {
    const root = this.pool.allocate(secondStage ? 4 : 1);
    const options = { mode, secondStage, bigEndian, memory: this.memory, root, allocator: this.pool, svpbmt: true };
    return { root, table: new RiscvTable(options) };
  }

  /** Writes a device-context of the extended format; nothing is invalidated. */
  setContext(device: number, { first, second, msi, tc = 0, valid = true }: Context): void {
    const words = [
      BigInt(valid ? tc | 1 : 0),
      second === undefined ? 0n : (BigInt(second.mode) << 60n) | (BigInt(second.gscid) << 44n) | BigInt(second.root),
      BigInt(first?.pscid ?? 0) << 12n,
      first === undefined ? 0n : (BigInt(first.mode) << 60n) | BigInt(first.root),
      msi === undefined ? 0n : (1n << 60n) | BigInt(msi.root),
      0n,
      BigInt(msi?.pattern ?? 0),
      0n,
    ];
    // The first doubleword last: V.
    for (let i = words.length - 1; i >= 0; i--) this.memory.store64(0, DDT * 4096 + device * 64 + i * 8, hiOf(words[i]), loOf(words[i]));
  }

  /** Appends commands and lets the IOMMU see them all at once. */
  command(...commands: readonly (readonly [bigint, bigint])[]): void {
    let tail = Number(this.iommu.read(Reg.cqt, 4));
    for (const [low, high] of commands) {
      this.memory.store64(0, CQ * 4096 + tail * 16, hiOf(low), loOf(low));
      this.memory.store64(0, CQ * 4096 + tail * 16 + 8, hiOf(high), loOf(high));
      tail = (tail + 1) % 256;
    }
    this.iommu.write(Reg.cqt, 4, BigInt(tail));
  }

  /** Fault records that the driver has not read yet: four doublewords each. */
  takeFaults(): bigint[][] {
    const records: bigint[][] = [];
    let head = Number(this.iommu.read(Reg.fqh, 4));
    const tail = Number(this.iommu.read(Reg.fqt, 4));
    for (; head !== tail; head = (head + 1) % 128) {
      records.push(
        [0, 1, 2, 3].map((i) => {
          this.memory.load64(0, FQ * 4096 + head * 32 + i * 8);
          return (BigInt(this.memory.word[1] >>> 0) << 32n) | BigInt(this.memory.word[0] >>> 0);
        }),
      );
    }
    this.iommu.write(Reg.fqh, 4, BigInt(head));
    return records;
  }
}

/** IOTINVAL.VMA ("IOMMU Page-Table cache invalidation commands"); `pfn` with AV. */
export function invalVma({ gscid, pscid, pfn }: { gscid?: number; pscid?: number; pfn?: number }): [bigint, bigint] {
  const low =
    1n |
    (pfn === undefined ? 0n : 1n << 10n) |
    (pscid === undefined ? 0n : (BigInt(pscid) << 12n) | (1n << 32n)) |
    (gscid === undefined ? 0n : (BigInt(gscid) << 44n) | (1n << 33n));
  return [low, pfn === undefined ? 0n : BigInt(pfn) << 10n];
}

/** The same of a naturally aligned power of two of pages (S). */
export function invalVmaRange({
  gscid,
  pscid,
  pfn,
  pages,
}: {
  gscid?: number;
  pscid?: number;
  pfn: number;
  pages: number;
}): [bigint, bigint] {
  const [low] = invalVma({ ...(gscid !== undefined && { gscid }), ...(pscid !== undefined && { pscid }), pfn });
  return [low, (BigInt(pfn + pages / 2 - 1) << 10n) | (1n << 9n)];
}

export function invalGvma(gscid: number): [bigint, bigint] {
  return [1n | (1n << 7n) | (1n << 33n) | (BigInt(gscid) << 44n), 0n];
}

/** The same of one guest-physical page (AV). */
export function invalGvmaPage(gscid: number, pfn: number): [bigint, bigint] {
  const [low] = invalGvma(gscid);
  return [low | (1n << 10n), BigInt(pfn) << 10n];
}

/** IODIR.INVAL_DDT of one device. */
export function invalDdt(device: number): [bigint, bigint] {
  return [3n | (1n << 33n) | (BigInt(device) << 40n), 0n];
}

/** IODIR.INVAL_PDT of one process of one device. */
export function invalPdt(device: number, process: number): [bigint, bigint] {
  const [low] = invalDdt(device);
  return [low | (1n << 7n) | (BigInt(process) << 12n), 0n];
}

/** IOFENCE.C, writing `data` to the fence page. */
export function fence(data = 1): [bigint, bigint] {
  return [2n | (1n << 10n) | (BigInt(data) << 32n), BigInt(FENCE * 4096) >> 2n];
}
