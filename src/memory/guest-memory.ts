import { joinHiLo, PAGE_BYTES, PAGE_LG2, pfnOf } from './address.ts';

/** A contiguous piece of guest RAM and the buffer of the VMM that holds it. */
export interface GuestRegion {
  /** Guest-physical address of the first byte; a multiple of 4096. */
  readonly gpa: bigint;
  /** Where the bytes are: a SharedArrayBuffer of ours, or an ArrayBuffer over the embedder's mmap. */
  readonly buffer: ArrayBufferLike;
  /** First byte within the buffer; a multiple of 8. Default 0. */
  readonly offset?: number;
  /** Size in bytes, a multiple of 4096. Default: the rest of the buffer. */
  readonly bytes?: number;
  /** Virtual address of the first byte in this process, page-aligned: what a host maps for DMA. Left out: emulated devices only. */
  readonly hostAddress?: bigint;
  /** The file that backs the region, for hosts that map files (iommufd IOAS_MAP_FILE), and the region's first byte in it. */
  readonly file?: { readonly fd: number; readonly offset: bigint };
}

/** What every accessor of guest memory answers: the access was done, or it left guest RAM and nothing was done. */
export const MEM_OK = 0;
export const MEM_FAULT = -1;

/**
 * A chunk lies within one 4 GiB frame of guest-physical addresses, so that one compare of `hi` and one unsigned
 * subtraction of `lo` find it, and within one view of its buffer: a Uint8Array ends at 4 GiB.
 */
class Chunk {
  readonly hi: number;
  readonly lo: number;
  readonly bytes: number;
  readonly u8: Uint8Array;
  readonly u64: BigUint64Array;
  readonly view: DataView;
  /** Host virtual page of the first byte, or -1. */
  readonly hostPfn: number;

  constructor(hi: number, lo: number, buffer: ArrayBufferLike, offset: number, bytes: number, hostPfn: number) {
    this.hi = hi;
    this.lo = lo;
    this.bytes = bytes;
    this.u8 = new Uint8Array(buffer, offset, bytes);
    this.u64 = new BigUint64Array(buffer, offset, bytes >>> 3);
    this.view = new DataView(buffer, offset, bytes);
    this.hostPfn = hostPfn;
  }
}

const FRAME_BYTES = 0x1_0000_0000;

function chunksOf(region: GuestRegion): Chunk[] {
  const offset = region.offset ?? 0;
  const bytes = region.bytes ?? region.buffer.byteLength - offset;
  const start = Number(region.gpa);
  if (region.gpa < 0n || region.gpa % BigInt(PAGE_BYTES) !== 0n)
    throw new RangeError(`GuestMemory: gpa 0x${region.gpa.toString(16)} is not a page's`);
  if (start + bytes > Number.MAX_SAFE_INTEGER) throw new RangeError(`GuestMemory: region at 0x${region.gpa.toString(16)} ends above 2^53`);
  if (bytes <= 0 || bytes % PAGE_BYTES !== 0)
    throw new RangeError(`GuestMemory: ${bytes} bytes at 0x${region.gpa.toString(16)} are not whole pages`);
  if (offset < 0 || offset % 8 !== 0 || offset + bytes > region.buffer.byteLength)
    throw new RangeError(`GuestMemory: offset ${offset} + ${bytes} bytes do not fit the buffer`);
  if (region.hostAddress !== undefined && region.hostAddress % BigInt(PAGE_BYTES) !== 0n)
    throw new RangeError("GuestMemory: hostAddress is not a page's");
  const hostPfn = region.hostAddress === undefined ? -1 : pfnOf(region.hostAddress);
  const chunks: Chunk[] = [];
  for (let done = 0; done < bytes; ) {
    const at = start + done;
    const lo = at % FRAME_BYTES;
    const size = Math.min(bytes - done, FRAME_BYTES - lo);
    const host = hostPfn < 0 ? -1 : hostPfn + done / PAGE_BYTES;
    chunks.push(new Chunk(Math.floor(at / FRAME_BYTES), lo, region.buffer, offset + done, size, host));
    done += size;
  }
  return chunks;
}

/**
 * Guest-physical memory: RAM with holes, above 4 GiB too. Accessors take the address as two int32, answer MEM_OK or
 * MEM_FAULT and never throw; what a load read stands in `word` ([lo, hi]; a narrower load leaves hi 0).
 * Memory is little-endian unless the accessor's name ends in BE. Aligned 64-bit accesses are done in one piece.
 */
export class GuestMemory {
  readonly regions: readonly GuestRegion[];
  /** The last value loaded: word[0] its low half, word[1] its high half. */
  readonly word: Int32Array;
  readonly #word64: BigUint64Array;
  readonly #chunks: readonly Chunk[];
  #last: Chunk;

  /** @throws RangeError when a region is not page-aligned, does not fit its buffer, or overlaps another. */
  constructor(regions: readonly GuestRegion[]) {
    this.regions = regions;
    this.#word64 = new BigUint64Array(1);
    this.word = new Int32Array(this.#word64.buffer);
    const chunks = regions.flatMap(chunksOf).sort((a, b) => a.hi - b.hi || a.lo - b.lo);
    for (let i = 1; i < chunks.length; i++) {
      const before = chunks[i - 1];
      if (before.hi === chunks[i].hi && before.lo + before.bytes > chunks[i].lo) {
        throw new RangeError(`GuestMemory: two regions hold 0x${joinHiLo(chunks[i].hi, chunks[i].lo).toString(16)}`);
      }
    }
    this.#chunks = chunks;
    this.#last = chunks[0] ?? new Chunk(0, 0, new ArrayBuffer(0), 0, 0, -1);
  }

  /** RAM of one SharedArrayBuffer at guest-physical 0, for tests and small machines. */
  static ofBytes(bytes: number, hostAddress?: bigint): GuestMemory {
    return new GuestMemory([{ gpa: 0n, buffer: new SharedArrayBuffer(bytes), ...(hostAddress !== undefined && { hostAddress }) }]);
  }

  /** Makes `#last` the chunk that holds [address, address + bytes) and returns the offset in it, or -1. */
  #find(hi: number, lo: number, bytes: number): number {
    const last = this.#last;
    const low = lo >>> 0;
    if (hi === last.hi && low >= last.lo && low - last.lo <= last.bytes - bytes) return low - last.lo;
    return this.#search(hi >>> 0, low, bytes);
  }

  #search(hi: number, lo: number, bytes: number): number {
    const chunks = this.#chunks;
    let low = 0;
    let high = chunks.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      const chunk = chunks[middle];
      if (chunk.hi < hi || (chunk.hi === hi && chunk.lo + chunk.bytes <= lo)) low = middle + 1;
      else high = middle;
    }
    const chunk = chunks[low];
    if (chunk === undefined || chunk.hi !== hi || lo < chunk.lo || lo - chunk.lo + bytes > chunk.bytes) return -1;
    this.#last = chunk;
    return lo - chunk.lo;
  }

  /** Loads 64 bits into `word`. An unaligned load may tear. */
  load64(hi: number, lo: number): number {
    const offset = this.#find(hi, lo, 8);
    if (offset < 0) return MEM_FAULT;
    if ((offset & 7) === 0) {
      this.#word64[0] = this.#last.u64[offset >>> 3];
    } else {
      this.word[0] = this.#last.view.getInt32(offset, true);
      this.word[1] = this.#last.view.getInt32(offset + 4, true);
    }
    return MEM_OK;
  }

  load64BE(hi: number, lo: number): number {
    if (this.load64(hi, lo) < 0) return MEM_FAULT;
    const word = this.word;
    const low = swap32(word[1]);
    word[1] = swap32(word[0]);
    word[0] = low;
    return MEM_OK;
  }

  load32(hi: number, lo: number): number {
    const offset = this.#find(hi, lo, 4);
    if (offset < 0) return MEM_FAULT;
    this.word[0] = this.#last.view.getInt32(offset, true);
    this.word[1] = 0;
    return MEM_OK;
  }

  load32BE(hi: number, lo: number): number {
    const offset = this.#find(hi, lo, 4);
    if (offset < 0) return MEM_FAULT;
    this.word[0] = this.#last.view.getInt32(offset, false);
    this.word[1] = 0;
    return MEM_OK;
  }

  load16(hi: number, lo: number): number {
    const offset = this.#find(hi, lo, 2);
    if (offset < 0) return MEM_FAULT;
    this.word[0] = this.#last.view.getUint16(offset, true);
    this.word[1] = 0;
    return MEM_OK;
  }

  /** Stores the 64-bit value (valueHi, valueLo). An unaligned store may tear. */
  store64(hi: number, lo: number, valueHi: number, valueLo: number): number {
    const offset = this.#find(hi, lo, 8);
    if (offset < 0) return MEM_FAULT;
    if ((offset & 7) === 0) {
      this.word[0] = valueLo;
      this.word[1] = valueHi;
      this.#last.u64[offset >>> 3] = this.#word64[0];
    } else {
      this.#last.view.setInt32(offset, valueLo, true);
      this.#last.view.setInt32(offset + 4, valueHi, true);
    }
    return MEM_OK;
  }

  store64BE(hi: number, lo: number, valueHi: number, valueLo: number): number {
    return this.store64(hi, lo, swap32(valueLo), swap32(valueHi));
  }

  store32(hi: number, lo: number, value: number): number {
    const offset = this.#find(hi, lo, 4);
    if (offset < 0) return MEM_FAULT;
    this.#last.view.setInt32(offset, value, true);
    return MEM_OK;
  }

  store32BE(hi: number, lo: number, value: number): number {
    const offset = this.#find(hi, lo, 4);
    if (offset < 0) return MEM_FAULT;
    this.#last.view.setInt32(offset, value, false);
    return MEM_OK;
  }

  store16(hi: number, lo: number, value: number): number {
    const offset = this.#find(hi, lo, 2);
    if (offset < 0) return MEM_FAULT;
    this.#last.view.setUint16(offset, value, true);
    return MEM_OK;
  }

  /**
   * Replaces the aligned 64-bit entry if it still is (oldHi, oldLo): 1 when it was, 0 when somebody else changed it first.
   * For accessed and dirty bits, which race with the guest; the BigInts that Atomics want are paid for on that path only.
   */
  compareExchange64(hi: number, lo: number, oldHi: number, oldLo: number, newHi: number, newLo: number): number {
    const offset = this.#find(hi, lo, 8);
    if (offset < 0 || (offset & 7) !== 0) return MEM_FAULT;
    const old = joinHiLo(oldHi, oldLo);
    return Atomics.compareExchange(this.#last.u64, offset >>> 3, old, joinHiLo(newHi, newLo)) === old ? 1 : 0;
  }

  /** Copies guest memory into `to[at, at + bytes)`. All of it is RAM, or nothing is copied. */
  read(hi: number, lo: number, to: Uint8Array, at: number, bytes: number): number {
    const offset = this.#find(hi, lo, bytes);
    if (offset >= 0) return copyOut(this.#last.u8, offset, to, at, bytes);
    return this.#pieces(hi, lo, bytes, (chunk, from, done, size) => copyOut(chunk.u8, from, to, at + done, size));
  }

  /** Copies `from[at, at + bytes)` into guest memory. All of it is RAM, or nothing is copied. */
  write(hi: number, lo: number, from: Uint8Array, at: number, bytes: number): number {
    const offset = this.#find(hi, lo, bytes);
    if (offset >= 0) return copyOut(from, at, this.#last.u8, offset, bytes);
    return this.#pieces(hi, lo, bytes, (chunk, to, done, size) => copyOut(from, at + done, chunk.u8, to, size));
  }

  /** Walks a range that lies in more than one chunk, twice: the first round finds out whether all of it is RAM. */
  #pieces(hi: number, lo: number, bytes: number, piece: (chunk: Chunk, offset: number, done: number, size: number) => number): number {
    const start = (hi >>> 0) * FRAME_BYTES + (lo >>> 0);
    for (const act of [false, true]) {
      for (let done = 0; done < bytes; ) {
        const at = start + done;
        // No RAM ends above 2^53; from there on `at` is not exact, and would come round to address 0.
        if (at > Number.MAX_SAFE_INTEGER) return MEM_FAULT;
        const offset = this.#find(Math.floor(at / FRAME_BYTES) | 0, (at % FRAME_BYTES) | 0, 1);
        if (offset < 0) return MEM_FAULT;
        const chunk = this.#last;
        const size = Math.min(bytes - done, chunk.bytes - offset);
        if (act) piece(chunk, offset, done, size);
        done += size;
      }
    }
    return MEM_OK;
  }

  /** Host virtual page that holds a guest page, or -1: no RAM there, or RAM that has no host address. */
  hostPfn(pfn: number): number {
    const offset = this.#find(Math.floor(pfn / 0x100000) | 0, (pfn % 0x100000) << PAGE_LG2, PAGE_BYTES);
    const host = this.#last.hostPfn;
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

  /** How many pages from `pfn` on, `limit` at most, are contiguous in host memory too; 0 when `pfn` has no host address. */
  hostRun(pfn: number, limit: number): number {
    const host = this.hostPfn(pfn);
    if (host < 0) return 0;
    let pages = 0;
    while (pages < limit && this.hostPfn(pfn + pages) === host + pages) {
      const chunk = this.#last;
      const first = chunk.hi * 0x100000 + chunk.lo / PAGE_BYTES;
      pages += first + chunk.bytes / PAGE_BYTES - (pfn + pages);
    }
    return Math.min(pages, limit);
  }
}

function swap32(value: number): number {
  return (value >>> 24) | ((value >>> 8) & 0xff00) | ((value << 8) & 0xff0000) | (value << 24) | 0;
}

/** A short copy byte by byte: `set` on a `subarray` allocates, and costs more than the copy up to about 64 bytes. */
function copyOut(from: Uint8Array, at: number, to: Uint8Array, offset: number, bytes: number): number {
  if (bytes <= 64) for (let i = 0; i < bytes; i++) to[offset + i] = from[at + i];
  else to.set(from.subarray(at, at + bytes), offset);
  return MEM_OK;
}
