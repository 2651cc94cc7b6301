import { hiOf, joinHiLo, loOf } from '../../../src/memory/address.ts';
import { GuestMemory } from '../../../src/memory/guest-memory.ts';
import { VtdSecondStageTable } from '../../../src/pagetable/vtd-second-stage.ts';
import { X86Table } from '../../../src/pagetable/x86.ts';
import { VtdIommu, type VtdIommuOptions, type VtdSurroundings } from '../../../src/target/vtd/index.ts';
import { GuestPages } from '../guest-pages.ts';

/** Everything that can be there. */
export const EVERYTHING: VtdIommuOptions = {
  scalableMode: true,
  deviceTlb: true,
  pageRequests: true,
  protectedMemory: true,
  firstStage5Level: true,
  secondStageLevels: [3, 4, 5],
  faultRecords: 2,
};

/** Pages that the guest's driver uses. */
export const ROOT = 1;
export const CONTEXT = 2;
export const QUEUE = 4;
export const STATUS = 5;
export const PASID_DIRECTORY = 6;
export const PASID_TABLE = 7;
const POOL = 16;

/** Offsets of registers (11.4). */
export const Reg = {
  ver: 0x00,
  cap: 0x08,
  ecap: 0x10,
  gcmd: 0x18,
  gsts: 0x1c,
  rtaddr: 0x20,
  ccmd: 0x28,
  fsts: 0x34,
  fectl: 0x38,
  fedata: 0x3c,
  feaddr: 0x40,
  feuaddr: 0x44,
  iqh: 0x80,
  iqt: 0x88,
  iqa: 0x90,
  ics: 0x9c,
  iectl: 0xa0,
  iqercd: 0xb0,
  irta: 0xb8,
  pqh: 0xc0,
  pqt: 0xc8,
  pqa: 0xd0,
  prs: 0xdc,
  pectl: 0xe0,
  iva: 0xf0,
  iotlb: 0xf8,
  frcd: 0x220,
} as const;

/** Bits of GCMD and GSTS. */
export const Cmd = { te: 1n << 31n, srtp: 1n << 30n, qie: 1n << 26n, ire: 1n << 25n, sirtp: 1n << 24n, cfi: 1n << 23n } as const;
const ONE_SHOT = Cmd.srtp | Cmd.sirtp;

export type Descriptor = readonly bigint[];

/** Descriptors (6.5.2), as lists of doublewords from the lowest. */
export const contextGlobal: Descriptor = [0x11n];
export const contextDevice = (device: number): Descriptor => [0x31n | (BigInt(device) << 32n)];
export const iotlbGlobal: Descriptor = [0x12n];
export const iotlbDomain = (did: number): Descriptor => [0x22n | (BigInt(did) << 16n)];
export const iotlbPages = (did: number, pfn: number, am = 0): Descriptor => [
  0x32n | (BigInt(did) << 16n),
  (BigInt(pfn) << 12n) | BigInt(am),
];
export const pasidGlobal: Descriptor = [0x37n];
export const pasidSelective = (did: number, pasid: number): Descriptor => [0x17n | (BigInt(did) << 16n) | (BigInt(pasid) << 32n)];
export const pasidPages = (did: number, pasid: number, pfn: number, am = 0): Descriptor => [
  0x36n | (BigInt(did) << 16n) | (BigInt(pasid) << 32n),
  (BigInt(pfn) << 12n) | BigInt(am),
];
export const wait = (data = 1): Descriptor => [0x25n | (BigInt(data) << 32n), BigInt(STATUS) << 12n];

/** A PASID table entry (9.6). */
export interface PasidEntry {
  readonly pgtt: number;
  readonly did: number;
  readonly first?: number;
  readonly second?: number;
  /** Levels of the second stage. */
  readonly levels?: number;
  /** Bits of the third doubleword beside FSPTPTR: SRE 1, FSPM 4, WPE 16, EAFE 128. */
  readonly flags?: bigint;
  /** Bits of the first doubleword. */
  readonly low?: bigint;
}

/** A guest's driver: its structures in guest memory, and the unit that it drives. */
export class Guest {
  iommu: VtdIommu;
  readonly memory: GuestMemory;
  readonly pool: GuestPages;
  readonly options: VtdIommuOptions;
  /** What the unit leaves for later. */
  readonly later: (() => void)[] = [];
  tail = 0;

  constructor(
    options: VtdIommuOptions = {},
    ramPages = 1024,
    surroundings: Partial<VtdSurroundings> = {},
    memory = GuestMemory.ofBytes(ramPages * 4096, 0x7000_0000_0000n),
  ) {
    this.options = options;
    this.memory = memory;
    this.pool = new GuestPages(memory, POOL, Math.floor(ramPages * 0.5));
    // What one access leaves goes on with the next: a test that is over leaves nothing to those behind it.
    this.iommu = new VtdIommu(options, { memory, schedule: (work) => void this.later.push(work), ...surroundings });
  }

  get scalable(): boolean {
    return this.options.scalableMode ?? false;
  }

  store(address: number, ...words: readonly bigint[]): void {
    words.forEach((word, i) => {
      if (this.memory.store64(0, address + i * 8, hiOf(word), loOf(word)) < 0) throw new RangeError(`no memory at ${address}`);
    });
  }

  load(address: number): bigint {
    if (this.memory.load64(0, address) < 0) throw new RangeError(`no memory at ${address}`);
    return joinHiLo(this.memory.word[1], this.memory.word[0]);
  }

  /** GCMD as software must write it: what is on, less one-shot bits, and one change. */
  global(change: bigint, on = true): void {
    const status = this.iommu.read(Reg.gsts, 4) & ~ONE_SHOT;
    this.iommu.write(Reg.gcmd, 4, on ? status | change : status & ~change);
  }

  /** Queue, root table and translation on. `ttm`: default as the unit can. */
  start(ttm = this.scalable ? 1n : 0n): void {
    this.startQueue();
    this.store(ROOT * 4096, (BigInt(CONTEXT) << 12n) | 1n, this.scalable ? (BigInt(CONTEXT + 1) << 12n) | 1n : 0n);
    this.store(PASID_DIRECTORY * 4096, (BigInt(PASID_TABLE) << 12n) | 1n);
    this.iommu.write(Reg.rtaddr, 8, (BigInt(ROOT) << 12n) | (ttm << 10n));
    this.global(Cmd.srtp);
    this.global(Cmd.te);
  }

  /** Another translation table mode. */
  setMode(ttm: bigint): void {
    this.iommu.write(Reg.rtaddr, 8, (BigInt(ROOT) << 12n) | (ttm << 10n));
    this.global(Cmd.srtp);
  }

  startQueue(): void {
    this.iommu.write(Reg.iqt, 8, 0n);
    this.iommu.write(Reg.iqa, 8, (BigInt(QUEUE) << 12n) | (this.scalable ? 1n << 11n : 0n));
    this.global(Cmd.qie);
    this.tail = 0;
  }

  /** Puts descriptors into the queue and tells. */
  submit(...descriptors: readonly Descriptor[]): void {
    const bytes = this.scalable ? 32 : 16;
    for (const descriptor of descriptors) {
      for (let i = 0; i < bytes / 8; i++) this.store(QUEUE * 4096 + this.tail + i * 8, descriptor[i] ?? 0n);
      this.tail = (this.tail + bytes) % 4096;
    }
    this.iommu.write(Reg.iqt, 8, BigInt(this.tail));
  }

  /** A legacy context entry (9.3); null: not present. */
  setContext(device: number, entry: { root: number; did: number; levels?: number; tt?: number; low?: bigint; high?: bigint } | null): void {
    const at = CONTEXT * 4096 + (device & 0xff) * 16;
    if (entry === null) {
      this.store(at, 0n, 0n);
      return;
    }
    const { root, did, levels = 4, tt = 0, low = 0n, high = 0n } = entry;
    this.store(at, (BigInt(root) << 12n) | (BigInt(tt) << 2n) | 1n | low, (BigInt(did) << 8n) | BigInt(levels - 2) | high);
  }

  /** A scalable-mode context entry (9.4) with one page of PASID directory. */
  setScalableContext(device: number, low = 0n, high = 0n): void {
    const at = CONTEXT * 4096 + (device & 0xff) * 32;
    // Present, PASIDE, DTE where there are device-TLBs.
    this.store(at, (BigInt(PASID_DIRECTORY) << 12n) | (this.options.deviceTlb ? 4n : 0n) | 9n | low, high, 0n, 0n);
  }

  setPasid(pasid: number, entry: PasidEntry | null): void {
    const at = PASID_TABLE * 4096 + pasid * 64;
    if (entry === null) {
      this.store(at, 0n, 0n, 0n, 0n, 0n, 0n, 0n, 0n);
      return;
    }
    const { pgtt, did, first = 0, second = 0, levels = 4, flags = 0n, low = 0n } = entry;
    this.store(
      at,
      (BigInt(second) << 12n) | (BigInt(pgtt) << 6n) | (BigInt(levels - 2) << 2n) | 1n | low,
      BigInt(did),
      (BigInt(first) << 12n) | flags,
      0n,
      0n,
      0n,
      0n,
      0n,
    );
  }

  secondStage(levels: 3 | 4 | 5 = 4): { root: number; table: VtdSecondStageTable } {
    const root = this.pool.allocate(1);
    return { root, table: new VtdSecondStageTable(this.memory, { levels, root, allocator: this.pool }) };
  }

  firstStage(levels: 4 | 5 = 4): { root: number; table: X86Table } {
    const root = this.pool.allocate(1);
    return { root, table: new X86Table(this.memory, { levels, root, allocator: this.pool }) };
  }

  /** Reasons of the faults that were recorded since the last call, oldest first; clears them. */
  faults(): number[] {
    const { iommu } = this;
    const status = Number(iommu.read(Reg.fsts, 4));
    const count = Number((iommu.read(Reg.cap, 8) >> 40n) & 0xffn) + 1;
    const reasons: number[] = [];
    for (let i = 0; i < count; i++) {
      const at = Reg.frcd + (((status >> 8) + i) % count) * 16;
      const high = iommu.read(at + 8, 8);
      if (high >> 63n === 0n) break;
      reasons.push(Number((high >> 32n) & 0xffn));
      iommu.write(at + 12, 4, 1n << 31n);
    }
    iommu.write(Reg.fsts, 4, 0x7fn);
    return reasons;
  }
}
