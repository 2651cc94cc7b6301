import { PAGE_BYTES, pfnOf } from './address.ts';
import { require64, requireFunction, requireNumber } from './arguments.ts';
import { ChunkedMemory } from './chunked-memory.ts';
import { type Chunk, chunksWith, type GuestRegion } from './guest-region.ts';
import { ReachedPages } from './reached-pages.ts';
import { WriteLog } from './write-log.ts';

export { MEM_FAULT, MEM_OK } from './chunked-memory.ts';
export type { GuestRegion } from './guest-region.ts';

/**
 * Guest-physical memory: RAM with holes, above 4 GiB too. Accessors take the address as two int32, answer MEM_OK or
 * MEM_FAULT and do not throw, but for a copy that leaves the caller's array; what a load read stands in `word` ([lo, hi]; a narrower load leaves hi 0),
 * which all memories share, until the next load.
 * Memory is little-endian unless the accessor's name ends in BE. Aligned 64-bit accesses are done in one piece.
 *
 * @example
 * const memory = new GuestMemory([{ gpa: 0x8000_0000n, buffer: new SharedArrayBuffer(1 << 20) }]);
 * memory.store32(0, 0x8000_0000 | 0, 7); // 0: done
 * memory.load64(0, 0x8000_0000 | 0); // 0
 * memory.word[0]; // 7: the low half
 * memory.load64(0, 0x1000); // -4096: no RAM there
 */
export class GuestMemory extends ChunkedMemory {
  #regions: readonly GuestRegion[] = [];
  readonly #observers = new Set<() => void>();
  /** Of regions whose pages are discarded. */
  readonly #reached = new ReachedPages();

  /** @throws RangeError when a region is not page-aligned, does not fit its buffer, or overlaps another; TypeError when it is none. */
  constructor(regions: readonly GuestRegion[]) {
    super();
    if (!Array.isArray(regions)) throw new TypeError('GuestMemory: regions are no array');
    this.#take([...regions], regions.reduce<Chunk[]>(chunksWith, []));
  }

  /** What is there now; another array after each change. */
  get regions(): readonly GuestRegion[] {
    return this.#regions;
  }

  /**
   * A region that is there from now on: RAM that is plugged, a ROM that is shadowed. Who observes has followed when it returns.
   *
   * @example
   * const memory = GuestMemory.ofBytes(1 << 20);
   * memory.add({ gpa: 0x1_0000_0000n, buffer: new SharedArrayBuffer(1 << 16) });
   * memory.store32(1, 0, 7); // 0: done
   *
   * @throws as the constructor; then nothing has changed.
   */
  add(region: GuestRegion): void {
    this.#take([...this.#regions, region], chunksWith(this.chunks, region));
    this.#tell();
  }

  /**
   * The region that begins at `gpa` is there no more. Who observes has taken it from the hardware when it returns, so its memory may be
   * unmapped then. @throws RangeError when no region begins there.
   */
  remove(gpa: bigint): void {
    this.#take(...this.#without(gpa));
    this.#tell();
  }

  /**
   * Other memory in the place of the region that begins at `region.gpa`: it is removed first, so nothing keeps what was there.
   * @throws as `add` and `remove`; then nothing has changed.
   */
  replace(region: GuestRegion): void {
    const rest = this.#without(region.gpa);
    chunksWith(rest[1], region);
    this.#take(...rest);
    this.#tell();
    this.add(region);
  }

  /** What is left. @throws RangeError when no region begins there. */
  #without(gpa: bigint): readonly [readonly GuestRegion[], readonly Chunk[]] {
    const at = this.#regions.findIndex((region) => region.gpa === gpa);
    if (at < 0) throw new RangeError(`GuestMemory: no region begins at ${String(gpa)}`);
    const found = this.#regions[at];
    const first = this.chunks.findIndex(({ region }) => region === found);
    let end = first + 1;
    while (this.chunks[end]?.region === found) end++;
    return [this.#regions.toSpliced(at, 1), this.chunks.toSpliced(first, end - first)];
  }

  /** Called after each change, within it. The disposer ends it. */
  observe(changed: () => void): () => void {
    if (changed === undefined) throw new TypeError('GuestMemory: observer is no function');
    requireFunction('GuestMemory', 'observer', changed);
    this.#observers.add(changed);
    return () => this.#observers.delete(changed);
  }

  /**
   * A log of what is written from now on: through here, as emulated devices and targets do, and what `wrote` says of hardware. The guest's own
   * processors are the embedder's to log. The second of the answers ends it. @throws TypeError while there is one already
   */
  logWrites(): readonly [log: WriteLog, end: () => void] {
    if (this.log !== null) throw new TypeError('GuestMemory: writes are logged already');
    const log = new WriteLog();
    this.log = log;
    const end = () => {
      if (this.log === log) this.log = null;
    };
    return [log, end];
  }

  get isLogged(): boolean {
    return this.log !== null;
  }

  /** Hardware may have written pages [first, first + pages), as far as they are RAM that can be written; for the log, if there is one. */
  wrote(first: number, pages: number): void {
    if (this.log === null) return;
    for (const chunk of this.chunks) {
      const { bytes, region } = chunk;
      const start = firstPage(chunk);
      const from = Math.max(first, start);
      const end = Math.min(first + pages, start + bytes / PAGE_BYTES);
      if (from < end && !region.readOnly && region.registersOf === undefined) this.log.note(from, end - from);
    }
  }

  /**
   * Hardware will be able to reach pages [first, first + pages): those that are discarded are populated, and none is from now on. False: they cannot
   * be, and nothing has changed. As often as it is said, `unreached` takes it back.
   */
  reached(first: number, pages: number): boolean {
    return this.#reached.add(first, pages);
  }

  unreached(first: number, pages: number): void {
    this.#reached.remove(first, pages);
  }

  /**
   * Whether pages of a region with `populate` may be discarded now: no passed-through device can reach any of them. What a device has mapped is its
   * own memory for as long; discarded, the guest would get other memory there than the device has. @throws RangeError for what is not whole pages
   */
  mayDiscard(gpa: bigint, bytes: number): boolean {
    require64('GuestMemory', 'gpa', gpa);
    requireNumber('GuestMemory', 'bytes', bytes);
    if (gpa % BigInt(PAGE_BYTES) !== 0n || !(bytes > 0 && bytes % PAGE_BYTES === 0))
      throw new RangeError(`GuestMemory: ${bytes} bytes at 0x${gpa.toString(16)} are not whole pages`);
    return this.#reached.isFree(pfnOf(gpa), bytes / PAGE_BYTES);
  }

  #tell(): void {
    for (const changed of this.#observers) changed();
  }

  #take(regions: readonly GuestRegion[], chunks: readonly Chunk[]): void {
    this.#regions = regions;
    this.#reached.follow(regions);
    this.chunks = chunks;
  }

  /** RAM of one SharedArrayBuffer at guest-physical 0, for tests and small machines. */
  static ofBytes(bytes: number, hostAddress?: bigint): GuestMemory {
    return new GuestMemory([{ gpa: 0n, buffer: new SharedArrayBuffer(bytes), ...(hostAddress !== undefined && { hostAddress }) }]);
  }

  /** Host virtual page that holds a guest page, or -1: no RAM there, or RAM that has no host address. */
  hostPfn(pfn: number): number {
    const chunk = this.chunkAt(pfn);
    return chunk === null || chunk.hostPfn < 0 ? -1 : chunk.hostPfn + pfn - firstPage(chunk);
  }

  /** The first page at or above `pfn` that has a host address, or -1. */
  nextHostPage(pfn: number): number {
    for (const chunk of this.chunks) {
      const first = firstPage(chunk);
      if (chunk.hostPfn >= 0 && pfn < first + chunk.bytes / PAGE_BYTES) return Math.max(pfn, first);
    }
    return -1;
  }

  /** Whether there is RAM or ROM at a page, with a host address or without. */
  holds(pfn: number): boolean {
    return this.chunkAt(pfn) !== null;
  }

  /** The region that holds a page and is registers of a device; null: there is none, or it is not. */
  registersAt(pfn: number): GuestRegion | null {
    const region = this.chunkAt(pfn)?.region;
    return region?.registersOf === undefined ? null : region;
  }

  /** Whether the page is ROM. */
  isReadOnly(pfn: number): boolean {
    return this.chunkAt(pfn)?.region.readOnly === true;
  }

  /**
   * How many pages from `pfn` on, `limit` at most, are contiguous in host memory too, and all ROM or all not, and no other device's registers; 0 when
   * `pfn` has no host address.
   */
  hostRun(pfn: number, limit: number): number {
    const start = this.chunkAt(pfn);
    if (start === null || start.hostPfn < 0) return 0;
    const { readOnly = false, registersOf } = start.region;
    const toHost = start.hostPfn - firstPage(start);
    let pages = 0;
    while (pages < limit) {
      const chunk = this.chunkAt(pfn + pages);
      if (chunk === null || chunk.hostPfn < 0 || chunk.hostPfn - firstPage(chunk) !== toHost) break;
      if ((chunk.region.readOnly ?? false) !== readOnly || chunk.region.registersOf !== registersOf) break;
      pages = firstPage(chunk) + chunk.bytes / PAGE_BYTES - pfn;
    }
    return Math.min(pages, limit);
  }
}

function firstPage({ hi, lo }: Chunk): number {
  return hi * 0x100000 + lo / PAGE_BYTES;
}
