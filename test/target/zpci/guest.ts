import { hiOf, loOf } from '../../../src/memory/address.ts';
import { GuestMemory } from '../../../src/memory/guest-memory.ts';
import { type ErrorEvent, GeneralRegisters, UNFINISHED, ZpciIommu, type ZpciIommuOptions } from '../../../src/target/zpci/index.ts';

/** What a guest maps: 4 MiB from 1 MiB on. Every designation type reaches it. */
export const FIRST = 0x100;
export const PAGES = 0x400;
/** RAM, and where in it tables and data lie. */
export const RAM_PAGES = 1024;
const FIB_AT = 0x1000n;

export const INVALID = 0x20n;
const PAGE_INVALID = 0x400n;
export const PROTECTED = 0x200n;
export const FRAME = 0x400n;
const T = 0x800n;
const TYPES = ['segment', 'regionThird', 'regionSecond', 'regionFirst'] as const;
export type Designation = (typeof TYPES)[number];

/** Tables as Linux lays them out: whole, and invalid where they map nothing. */
export class GuestTables {
  readonly designation: Designation;
  readonly #memory: GuestMemory;
  readonly #at: bigint;

  /** `at`: 80 KiB of RAM, at a multiple of 16 KiB. */
  constructor(memory: GuestMemory, at: bigint, designation: Designation) {
    this.designation = designation;
    this.#memory = memory;
    this.#at = at;
    for (let level = 1; level <= 4; level++) {
      for (let i = 0; i < 2048; i++) this.set(this.entry(level, i), INVALID);
      // Entry 0 leads on: full length, type of the table that the entry is in.
      if (level > 1) this.set(this.entry(level, 0), this.#table(level - 1) | BigInt(((level - 1) << 2) | 3));
    }
    for (let i = 0; i < PAGES + FIRST; i++) this.set(this.pageEntry(i), PAGE_INVALID);
    for (let i = 0; i < (PAGES + FIRST) / 256; i++) this.set(this.entry(1, i), this.#pages + BigInt(i * 2048));
  }

  #table(level: number): bigint {
    return this.#at + BigInt((level - 1) * 0x4000);
  }
  get #pages(): bigint {
    return this.#at + 0x10000n;
  }
  get iota(): bigint {
    const type = TYPES.indexOf(this.designation);
    return this.#table(type + 1) | BigInt(type << 2) | T;
  }

  /** Address of an entry: level 1 is the segment table. */
  entry(level: number, index: number): bigint {
    return this.#table(level) + BigInt(8 * index);
  }
  pageEntry(pfn: number): bigint {
    return this.#pages + BigInt(8 * pfn);
  }
  set(address: bigint, value: bigint): void {
    this.#memory.store64BE(hiOf(address), loOf(address), hiOf(value), loOf(value));
  }

  map(pfn: number, to: number, pages: number, flags = 0n): void {
    for (let i = 0; i < pages && pfn + i < FIRST + PAGES; i++) this.set(this.pageEntry(pfn + i), (BigInt(to + i) << 12n) | flags);
  }
  unmap(pfn: number, pages: number): void {
    for (let i = 0; i < pages && pfn + i < FIRST + PAGES; i++) this.set(this.pageEntry(pfn + i), PAGE_INVALID);
  }
  /** The MiB of a page becomes one frame, or a page table again. */
  frame(pfn: number, to: number | null, flags = 0n): void {
    const index = pfn >> 8;
    this.set(this.entry(1, index), to === null ? this.#pages + BigInt(index * 2048) : (BigInt(to) << 20n) | FRAME | flags);
  }
}

/** A guest with functions 1 and 2. */
export class Guest {
  readonly memory: GuestMemory;
  readonly iommu: ZpciIommu;
  readonly registers = new GeneralRegisters();
  readonly events: ErrorEvent[] = [];
  readonly interruptions: number[] = [];

  constructor(options: Partial<ZpciIommuOptions> = {}, memory = GuestMemory.ofBytes(RAM_PAGES * 4096)) {
    this.memory = memory;
    const aperture = { start: BigInt(FIRST) << 12n, last: 2n ** 63n - 1n };
    this.iommu = new ZpciIommu({
      memory,
      functions: [1, 2].map((fid) => ({ fid, aperture })),
      errorEvent: (event) => void this.events.push(event),
      adapterInterruption: (isc) => void this.interruptions.push(isc),
      ...options,
    });
  }

  /** CLP with this request behind its header; the whole response. */
  clp(command: number, words: readonly number[], responseBytes = 0xc0): { cc: number; code: number; view: DataView } {
    const block = new Uint8Array(32 + responseBytes);
    const view = new DataView(block.buffer);
    view.setUint16(0, 32);
    view.setUint16(2, command);
    words.forEach((word, i) => {
      view.setUint32(4 + 4 * i, word);
    });
    view.setUint16(32, responseBytes);
    const cc = this.iommu.clp(block);
    const response = new DataView(block.buffer, 32);
    return { cc, code: response.getUint16(2), view: response };
  }

  /** Set PCI function: the response code. */
  set(handle: number, operation: 0 | 1, spaces = 1): number {
    return this.clp(5, [0, 0, 0, handle, (operation << 8) | spaces]).code;
  }
  /** Enables both. */
  start(): void {
    for (const fid of [1, 2]) this.set(handleOf(fid) & 0x7fff_ffff, 0);
  }

  /** MPCIFC: condition code or interruption, and the status. */
  modify(fid: number, operation: number, fields: Readonly<Record<number, bigint>> = {}, dmaas = 0): [number, number] {
    for (let at = 0; at < 0x50; at += 8) this.store(FIB_AT + BigInt(at), fields[at] ?? 0n);
    this.registers.u64[1] = (BigInt(handleOf(fid)) << 32n) | BigInt((dmaas << 16) | operation);
    const cc = this.iommu.mpcifc(this.registers, 1, FIB_AT);
    return [cc, this.status(1)];
  }
  register(fid: number, iota: bigint, operation = 4, last = FIRST + PAGES - 1): [number, number] {
    return this.modify(fid, operation, { 16: BigInt(FIRST) << 12n, 24: (BigInt(last) << 12n) | 0xfffn, 32: iota });
  }
  /** STPCIFC: condition code, and the FIB. */
  stored(handle: number): { cc: number; fib: bigint[] } {
    this.registers.u64[1] = BigInt(handle) << 32n;
    const cc = this.iommu.stpcifc(this.registers, 1, FIB_AT);
    return { cc, fib: Array.from({ length: 10 }, (_, i) => this.load(FIB_AT + BigInt(8 * i))) };
  }
  refresh(fid: number, pfn: number, pages: number): [number, number] {
    this.registers.u64[1] = BigInt(handleOf(fid)) << 32n;
    this.registers.u64[2] = BigInt(pfn) << 12n;
    this.registers.u64[3] = BigInt(pages) << 12n;
    let cc: number;
    do cc = this.iommu.rpcit(this.registers, 1, 2);
    while (cc === UNFINISHED);
    return [cc, this.status(1)];
  }
  status(register: number): number {
    return Number((this.registers.u64[register] >> 24n) & 0xffn);
  }

  /** Where an access lands: the guest-physical address, or the negative fault. */
  access(fid: number, iova: bigint, access: number): bigint {
    const lg2 = this.iommu.translate(fid, -1, hiOf(iova), loOf(iova), access);
    const [lo, hi] = this.iommu.translated;
    return lg2 < 0 ? BigInt(lg2) : (BigInt(hi >>> 0) << 32n) | BigInt(lo >>> 0);
  }

  store(address: bigint, value: bigint): void {
    this.memory.store64BE(hiOf(address), loOf(address), hiOf(value), loOf(value));
  }
  load(address: bigint): bigint {
    this.memory.load64BE(hiOf(address), loOf(address));
    return (BigInt(this.memory.word[1] >>> 0) << 32n) | BigInt(this.memory.word[0] >>> 0);
  }
}

/** Handle of an enabled function. */
export function handleOf(fid: number): number {
  return (0x8002_0000 | (fid - 1)) >>> 0;
}
