import { joinHiLo, PAGE_BYTES, PAGE_LG2, pfnOf, pfnOfHiLo } from './address.ts';
import { require64, requireFunction } from './arguments.ts';
import { type Chunk, chunksOfAll, FRAME_BYTES, type GuestRegion, NO_CHUNK } from './guest-region.ts';
import { ReachedPages } from './reached-pages.ts';
import { WriteLog } from './write-log.ts';

export type { GuestRegion } from './guest-region.ts';

/**
 * What every accessor of guest memory answers: the access was done, or it left guest RAM and nothing was done. MEM_FAULT is no errno (-1 to
 * -4095), and no target's fault code (src/target/fault-codes.ts).
 */
export const MEM_OK = 0;
export const MEM_FAULT = -0x1000;
// The same for this file: the compiler folds a constant only within its module, and only if it is not exported.
const OK = 0;
const FAULT = -0x1000;

/** Up to here a place, and the 64 bytes after it, are int32. */
const INT32_PLACES = 0x7fff_ff00;

/**
 * Guest-physical memory: RAM with holes, above 4 GiB too. Accessors take the address as two int32, answer MEM_OK or
 * MEM_FAULT and do not throw, but for a copy that leaves the caller's array; what a load read stands in `word` ([lo, hi]; a narrower load leaves hi 0).
 * Memory is little-endian unless the accessor's name ends in BE. Aligned 64-bit accesses are done in one piece.
 *
 * @example
 * const memory = new GuestMemory([{ gpa: 0x8000_0000n, buffer: new SharedArrayBuffer(1 << 20) }]);
 * memory.store32(0, 0x8000_0000 | 0, 7); // 0: done
 * memory.load64(0, 0x8000_0000 | 0); // 0
 * memory.word[0]; // 7: the low half
 * memory.load64(0, 0x1000); // -4096: no RAM there
 */
export class GuestMemory {
  #regions: readonly GuestRegion[] = [];
  readonly #observers = new Set<() => void>();
  /** The last value loaded: word[0] its low half, word[1] its high half. */
  readonly word: Int32Array = new Int32Array(2);
  // Fields that begin as what they are stay typed for the compiler; one that begins undefined is checked at each use.
  readonly #word64 = new BigUint64Array(this.word.buffer);
  readonly #wordView = new DataView(this.word.buffer);
  #chunks: readonly Chunk[] = [];
  /** The chunk that was found last; what aligned accesses need of it lies here, as int32, so that they are a few machine instructions. */
  #chunk: Chunk = NO_CHUNK;
  #hi = 0;
  #lo = 0;
  /** Offset of the chunk's last byte, unsigned. */
  #lastByte = 0;
  #u64: BigUint64Array = NO_CHUNK.u64;
  #i32: Int32Array = NO_CHUNK.i32;
  #readOnly = false;
  /** Of regions whose pages are discarded. */
  readonly #reached = new ReachedPages();
  /** null: nobody asks what is written. */
  #log: WriteLog | null = null;

  /** @throws RangeError when a region is not page-aligned, does not fit its buffer, or overlaps another; TypeError when it is none. */
  constructor(regions: readonly GuestRegion[]) {
    if (!Array.isArray(regions)) throw new TypeError('GuestMemory: regions are no array');
    this.#take([...regions]);
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
    this.#take([...this.#regions, region]);
    this.#tell();
  }

  /**
   * The region that begins at `gpa` is there no more. Who observes has taken it from the hardware when it returns, so its memory may be
   * unmapped then. @throws RangeError when no region begins there.
   */
  remove(gpa: bigint): void {
    this.#take(this.#without(gpa));
    this.#tell();
  }

  /**
   * Other memory in the place of the region that begins at `region.gpa`: it is removed first, so nothing keeps what was there.
   * @throws as `add` and `remove`; then nothing has changed.
   */
  replace(region: GuestRegion): void {
    const rest = this.#without(region.gpa);
    chunksOfAll([...rest, region]);
    this.#take(rest);
    this.#tell();
    this.add(region);
  }

  /** @throws RangeError when no region begins there. */
  #without(gpa: bigint): readonly GuestRegion[] {
    const rest = this.#regions.filter((region) => region.gpa !== gpa);
    if (rest.length === this.#regions.length) throw new RangeError(`GuestMemory: no region begins at ${String(gpa)}`);
    return rest;
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
    if (this.#log !== null) throw new TypeError('GuestMemory: writes are logged already');
    const log = new WriteLog();
    this.#log = log;
    const end = () => {
      if (this.#log === log) this.#log = null;
    };
    return [log, end];
  }

  get isLogged(): boolean {
    return this.#log !== null;
  }

  /** Hardware may have written pages [first, first + pages), as far as they are RAM that can be written; for the log, if there is one. */
  wrote(first: number, pages: number): void {
    if (this.#log === null) return;
    for (const { hi, lo, bytes, region } of this.#chunks) {
      const start = hi * 0x100000 + lo / PAGE_BYTES;
      const from = Math.max(first, start);
      const end = Math.min(first + pages, start + bytes / PAGE_BYTES);
      if (from < end && !region.readOnly && region.registersOf === undefined) this.#log.note(from, end - from);
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
    if (gpa % BigInt(PAGE_BYTES) !== 0n || !(bytes > 0 && bytes % PAGE_BYTES === 0))
      throw new RangeError(`GuestMemory: ${bytes} bytes at 0x${gpa.toString(16)} are not whole pages`);
    return this.#reached.isFree(pfnOf(gpa), bytes / PAGE_BYTES);
  }

  #note(hi: number, lo: number, bytes: number): void {
    if (bytes === 0 || this.#chunk.region.registersOf !== undefined) return;
    const first = pfnOfHiLo(hi, lo);
    this.#log?.note(first, Math.floor(((lo & (PAGE_BYTES - 1)) + bytes - 1) / PAGE_BYTES) + 1);
  }

  #tell(): void {
    for (const changed of this.#observers) changed();
  }

  #take(regions: readonly GuestRegion[]): void {
    const chunks = chunksOfAll(regions);
    this.#regions = regions;
    this.#reached.follow(regions);
    this.#chunks = chunks;
    this.#enter(chunks[0] ?? NO_CHUNK);
  }

  /** RAM of one SharedArrayBuffer at guest-physical 0, for tests and small machines. */
  static ofBytes(bytes: number, hostAddress?: bigint): GuestMemory {
    return new GuestMemory([{ gpa: 0n, buffer: new SharedArrayBuffer(bytes), ...(hostAddress !== undefined && { hostAddress }) }]);
  }

  #enter(chunk: Chunk): void {
    this.#chunk = chunk;
    this.#hi = chunk.hi;
    this.#lo = chunk.lo | 0;
    this.#lastByte = Math.max(chunk.bytes - 1, 0) | 0;
    this.#u64 = chunk.u64;
    this.#i32 = chunk.i32;
    this.#readOnly = chunk.region.readOnly === true;
  }

  /** Whether the current chunk, or one that becomes the current, holds the byte; and so all of what is aligned and begins with it. */
  #holds(hi: number, lo: number): boolean {
    return (hi === this.#hi && (lo - this.#lo) >>> 0 <= this.#lastByte >>> 0) || this.#search(hi, lo);
  }

  #search(hi: number, lo: number): boolean {
    const chunks = this.#chunks;
    const low = lo >>> 0;
    let first = 0;
    let end = chunks.length;
    while (first < end) {
      const middle = (first + end) >>> 1;
      const chunk = chunks[middle];
      if (chunk.hi < hi || (chunk.hi === hi && chunk.lo + chunk.bytes <= low)) first = middle + 1;
      else end = middle;
    }
    const chunk = chunks[first];
    if (hi < 0 || chunk === undefined || chunk.hi !== hi || low < chunk.lo) return false;
    this.#enter(chunk);
    return true;
  }

  /** Makes the chunk that holds [address, address + bytes) the current one and returns the offset in it, or -1. */
  #find(hi: number, lo: number, bytes: number): number {
    if (!this.#holds(hi, lo)) return -1;
    const offset = (lo >>> 0) - this.#chunk.lo;
    return offset + bytes <= this.#chunk.bytes ? offset : -1;
  }

  /** Loads 64 bits into `word`. An unaligned load may tear. */
  load64(hi: number, lo: number): number {
    if ((lo & 7) !== 0) return this.#loadUnaligned64(hi, lo);
    if (!this.#holds(hi, lo)) return FAULT;
    this.#word64[0] = this.#u64[(lo - this.#lo) >>> 3];
    return OK;
  }

  load64BE(hi: number, lo: number): number {
    if (this.load64(hi, lo) < 0) return FAULT;
    const high = this.#wordView.getInt32(0);
    this.word[0] = this.#wordView.getInt32(4);
    this.word[1] = high;
    return OK;
  }

  load32(hi: number, lo: number): number {
    if ((lo & 3) !== 0) return this.#loadUnaligned32(hi, lo);
    if (!this.#holds(hi, lo)) return FAULT;
    this.word[0] = this.#i32[(lo - this.#lo) >>> 2];
    this.word[1] = 0;
    return OK;
  }

  load32BE(hi: number, lo: number): number {
    if (this.load32(hi, lo) < 0) return FAULT;
    this.word[0] = this.#wordView.getInt32(0);
    return OK;
  }

  load16(hi: number, lo: number): number {
    const offset = this.#find(hi, lo, 2);
    if (offset < 0) return FAULT;
    this.word[0] = this.#chunk.view.getUint16(offset, true);
    this.word[1] = 0;
    return OK;
  }

  #loadUnaligned64(hi: number, lo: number): number {
    const offset = this.#find(hi, lo, 8);
    if (offset < 0) return FAULT;
    this.word[0] = this.#chunk.view.getInt32(offset, true);
    this.word[1] = this.#chunk.view.getInt32(offset + 4, true);
    return OK;
  }

  #loadUnaligned32(hi: number, lo: number): number {
    const offset = this.#find(hi, lo, 4);
    if (offset < 0) return FAULT;
    this.word[0] = this.#chunk.view.getInt32(offset, true);
    this.word[1] = 0;
    return OK;
  }

  /** Stores the 64-bit value (valueHi, valueLo). An unaligned store may tear. */
  store64(hi: number, lo: number, valueHi: number, valueLo: number): number {
    if ((lo & 7) !== 0) return this.#storeUnaligned64(hi, lo, valueHi, valueLo);
    if (!this.#holds(hi, lo) || this.#readOnly) return FAULT;
    this.word[0] = valueLo;
    this.word[1] = valueHi;
    this.#u64[(lo - this.#lo) >>> 3] = this.#word64[0];
    if (this.#log !== null) this.#note(hi, lo, 8);
    return OK;
  }

  store64BE(hi: number, lo: number, valueHi: number, valueLo: number): number {
    return this.store64(hi, lo, swap32(valueLo), swap32(valueHi));
  }

  store32(hi: number, lo: number, value: number): number {
    if ((lo & 3) !== 0) return this.#storeUnaligned32(hi, lo, value);
    if (!this.#holds(hi, lo) || this.#readOnly) return FAULT;
    this.#i32[(lo - this.#lo) >>> 2] = value;
    if (this.#log !== null) this.#note(hi, lo, 4);
    return OK;
  }

  store32BE(hi: number, lo: number, value: number): number {
    return this.store32(hi, lo, swap32(value));
  }

  store16(hi: number, lo: number, value: number): number {
    const offset = this.#find(hi, lo, 2);
    if (offset < 0 || this.#readOnly) return FAULT;
    this.#chunk.view.setUint16(offset, value, true);
    if (this.#log !== null) this.#note(hi, lo, 2);
    return OK;
  }

  #storeUnaligned64(hi: number, lo: number, valueHi: number, valueLo: number): number {
    const offset = this.#find(hi, lo, 8);
    if (offset < 0 || this.#readOnly) return FAULT;
    this.#chunk.view.setInt32(offset, valueLo, true);
    this.#chunk.view.setInt32(offset + 4, valueHi, true);
    if (this.#log !== null) this.#note(hi, lo, 8);
    return OK;
  }

  #storeUnaligned32(hi: number, lo: number, value: number): number {
    const offset = this.#find(hi, lo, 4);
    if (offset < 0 || this.#readOnly) return FAULT;
    this.#chunk.view.setInt32(offset, value, true);
    if (this.#log !== null) this.#note(hi, lo, 4);
    return OK;
  }

  /**
   * Replaces the aligned 64-bit entry if it still is (oldHi, oldLo): 1 when it was, 0 when somebody else changed it first.
   * For accessed and dirty bits, which race with the guest; the BigInts that Atomics want are paid for on that path only.
   */
  compareExchange64(hi: number, lo: number, oldHi: number, oldLo: number, newHi: number, newLo: number): number {
    if ((lo & 7) !== 0 || !this.#holds(hi, lo) || this.#readOnly) return FAULT;
    const old = joinHiLo(oldHi, oldLo);
    if (Atomics.compareExchange(this.#u64, (lo - this.#lo) >>> 3, old, joinHiLo(newHi, newLo)) !== old) return 0;
    if (this.#log !== null) this.#note(hi, lo, 8);
    return 1;
  }

  /** Loads `count` aligned 64-bit words, each in one piece. They lie in one region, or nothing is loaded. */
  loadRun64(hi: number, lo: number, to: BigUint64Array, count: number): number {
    if ((lo & 7) !== 0 || this.#find(hi, lo, count * 8) < 0) return FAULT;
    const from = this.#u64;
    const first = ((lo - this.#lo) >>> 3) | 0;
    for (let i = 0; i < count; i++) to[i] = from[(first + i) | 0];
    return OK;
  }

  /** Stores the first `count` words of `from`, each in one piece. They lie in one region that can be written, or nothing is stored. */
  storeRun64(hi: number, lo: number, from: BigUint64Array, count: number): number {
    if ((lo & 7) !== 0 || this.#find(hi, lo, count * 8) < 0 || this.#readOnly) return FAULT;
    const to = this.#u64;
    const first = ((lo - this.#lo) >>> 3) | 0;
    for (let i = 0; i < count; i++) to[(first + i) | 0] = from[i];
    if (this.#log !== null) this.#note(hi, lo, count * 8);
    return OK;
  }

  /** Copies guest memory into `to[at, at + bytes)`. All of it is RAM, or nothing is copied. @throws RangeError when the array has no such bytes. */
  read(hi: number, lo: number, to: Uint8Array, at: number, bytes: number): number {
    if (!(at >= 0 && bytes >= 0 && at + bytes <= to.length && Number.isInteger(at) && Number.isInteger(bytes)))
      throw outsideArray(to, at, bytes);
    const offset = this.#find(hi, lo, bytes);
    if (offset >= 0) return copyOut(this.#chunk.u8, offset, to, at, bytes);
    return this.#pieces(hi, lo, bytes, false, (chunk, from, done, size) => copyOut(chunk.u8, from, to, at + done, size));
  }

  /** Copies `from[at, at + bytes)` into guest memory. All of it is RAM that can be written, or nothing is copied. @throws RangeError when the array has no such bytes. */
  write(hi: number, lo: number, from: Uint8Array, at: number, bytes: number): number {
    if (!(at >= 0 && bytes >= 0 && at + bytes <= from.length && Number.isInteger(at) && Number.isInteger(bytes)))
      throw outsideArray(from, at, bytes);
    const offset = this.#find(hi, lo, bytes);
    if (offset >= 0 && this.#readOnly) return FAULT;
    const result =
      offset >= 0
        ? copyOut(from, at, this.#chunk.u8, offset, bytes)
        : this.#pieces(hi, lo, bytes, true, (chunk, to, done, size) => copyOut(from, at + done, chunk.u8, to, size));
    if (this.#log !== null && result === OK) this.#note(hi, lo, bytes);
    return result;
  }

  /** Walks a range that lies in more than one chunk, twice: the first round finds out whether all of it is RAM, and can be written when it is to be. */
  #pieces(
    hi: number,
    lo: number,
    bytes: number,
    store: boolean,
    piece: (chunk: Chunk, offset: number, done: number, size: number) => number,
  ): number {
    const start = (hi >>> 0) * FRAME_BYTES + (lo >>> 0);
    for (const act of [false, true]) {
      for (let done = 0; done < bytes; ) {
        const at = start + done;
        // No RAM ends above 2^53; from there on `at` is not exact, and would come round to address 0.
        if (at > Number.MAX_SAFE_INTEGER) return FAULT;
        const offset = this.#find(Math.floor(at / FRAME_BYTES) | 0, (at % FRAME_BYTES) | 0, 1);
        if (offset < 0) return FAULT;
        const chunk = this.#chunk;
        const size = Math.min(bytes - done, chunk.bytes - offset);
        if (!act && store && chunk.region.readOnly) return FAULT;
        if (act) piece(chunk, offset, done, size);
        done += size;
      }
    }
    return OK;
  }

  /** Host virtual page that holds a guest page, or -1: no RAM there, or RAM that has no host address. */
  hostPfn(pfn: number): number {
    const offset = this.#find(Math.floor(pfn / 0x100000) | 0, (pfn % 0x100000) << PAGE_LG2, PAGE_BYTES);
    const host = this.#chunk.hostPfn;
    return offset < 0 || host < 0 ? -1 : host + offset / PAGE_BYTES;
  }

  /** The first page at or above `pfn` that has a host address, or -1. */
  nextHostPage(pfn: number): number {
    for (const chunk of this.#chunks) {
      const first = chunk.hi * 0x100000 + chunk.lo / PAGE_BYTES;
      if (chunk.hostPfn >= 0 && pfn < first + chunk.bytes / PAGE_BYTES) return Math.max(pfn, first);
    }
    return -1;
  }

  /** Whether there is RAM or ROM at a page, with a host address or without. */
  holds(pfn: number): boolean {
    return this.#find(Math.floor(pfn / 0x100000) | 0, (pfn % 0x100000) << PAGE_LG2, PAGE_BYTES) >= 0;
  }

  /** The region that holds a page and is registers of a device; null: there is none, or it is not. */
  registersAt(pfn: number): GuestRegion | null {
    return this.holds(pfn) && this.#chunk.region.registersOf !== undefined ? this.#chunk.region : null;
  }

  /** Whether the page is ROM. */
  isReadOnly(pfn: number): boolean {
    return this.holds(pfn) && this.#readOnly;
  }

  /**
   * How many pages from `pfn` on, `limit` at most, are contiguous in host memory too, and all ROM or all not, and no other device's registers; 0 when
   * `pfn` has no host address.
   */
  hostRun(pfn: number, limit: number): number {
    const host = this.hostPfn(pfn);
    if (host < 0) return 0;
    const readOnly = this.#readOnly;
    const { registersOf } = this.#chunk.region;
    let pages = 0;
    while (pages < limit && this.hostPfn(pfn + pages) === host + pages && this.#readOnly === readOnly) {
      const chunk = this.#chunk;
      if (chunk.region.registersOf !== registersOf) break;
      const first = chunk.hi * 0x100000 + chunk.lo / PAGE_BYTES;
      pages += first + chunk.bytes / PAGE_BYTES - (pfn + pages);
    }
    return Math.min(pages, limit);
  }
}

function outsideArray(array: Uint8Array, at: number, bytes: number): RangeError {
  return new RangeError(`GuestMemory: ${bytes} bytes at ${at} are not within an array of ${array.length}`);
}

function swap32(value: number): number {
  return (value >>> 24) | ((value >>> 8) & 0xff00) | ((value << 8) & 0xff0000) | (value << 24) | 0;
}

/**
 * A short copy byte by byte, in int32: `set` on a `subarray` allocates, and costs more than the copy up to about 64 bytes.
 * Places above 2 GiB are no int32.
 */
function copyOut(from: Uint8Array, at: number, to: Uint8Array, offset: number, bytes: number): number {
  if (bytes > 64 || at > INT32_PLACES || offset > INT32_PLACES) {
    to.set(from.subarray(at, at + bytes), offset);
    return OK;
  }
  const first = at | 0;
  const place = offset | 0;
  for (let i = 0; i < bytes; i++) to[(place + i) | 0] = from[(first + i) | 0];
  return OK;
}
