import { joinHiLo, PAGE_BYTES, PAGE_LG2, pfnOfHiLo } from './address.ts';
import { ArrayWords, copyBytes, copyWords } from './copy.ts';
import { type Chunk, FRAME_BYTES, NO_CHUNK } from './guest-region.ts';
import { LOADED } from './loaded.ts';
import type { WriteLog } from './write-log.ts';

/**
 * What every accessor of guest memory answers: the access was done, or it left guest RAM and nothing was done. MEM_FAULT is no errno (-1 to
 * -4095), and no target's fault code (src/target/fault-codes.ts).
 */
export const MEM_OK = 0;
export const MEM_FAULT = -0x1000;
// The same for this file: the compiler folds a constant only within its module, and only if it is not exported.
const OK = 0;
const FAULT = -0x1000;

/** LOADED, here because the compiler folds a module's own constants only. */
const loaded = LOADED;
const loaded64 = new BigUint64Array(LOADED.buffer);
const loadedView = new DataView(LOADED.buffer);
/** A value on its way into memory. */
const stored = new Int32Array(new ArrayBuffer(8));
const stored64 = new BigUint64Array(stored.buffer);

/** Bytes of the longest copy that is made in words of 64 bits; a longer one is left to the engine. */
const IN_WORDS = 256;

/** Loads, stores and copies of memory that lies in chunks; which chunks there are is another's to say (guest-memory.ts). */
export class ChunkedMemory {
  /** The last value loaded, from this memory or another: word[0] its low half, word[1] its high half. */
  readonly word: Int32Array = loaded;
  // Fields that begin as what they are stay typed for the compiler; one that begins undefined is checked at each use.
  #chunks: readonly Chunk[] = [];
  /** The chunk that was found last; what aligned accesses need of it lies here, as int32, so that they are a few machine instructions. */
  #chunk: Chunk = NO_CHUNK;
  #hi = 0;
  #lo = 0;
  /** Offset of the chunk's last byte, unsigned; its 64-bit words. */
  #lastByte = 0;
  #words = 0;
  #u64: BigUint64Array = NO_CHUNK.u64;
  #i32: Int32Array = NO_CHUNK.i32;
  #readOnly = false;
  readonly #arrayWords = new ArrayWords();
  /** null: nobody asks what is written. */
  protected log: WriteLog | null = null;

  /** What there is. */
  protected get chunks(): readonly Chunk[] {
    return this.#chunks;
  }

  /** These are there from now on: ascending, none overlaps another. */
  protected set chunks(chunks: readonly Chunk[]) {
    this.#chunks = chunks;
    this.#enter(chunks[0] ?? NO_CHUNK);
  }

  /** The chunk that holds a page; null: there is none. */
  protected chunkAt(pfn: number): Chunk | null {
    return this.#find(Math.floor(pfn / 0x100000) | 0, (pfn % 0x100000) << PAGE_LG2, PAGE_BYTES) < 0 ? null : this.#chunk;
  }

  #enter(chunk: Chunk): void {
    this.#chunk = chunk;
    this.#hi = chunk.hi;
    this.#lo = chunk.lo | 0;
    this.#lastByte = Math.max(chunk.bytes - 1, 0) | 0;
    this.#words = (chunk.bytes / 8) | 0;
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
    const offset = (lo - this.#lo) >>> 0;
    return bytes - 1 <= (this.#lastByte >>> 0) - offset ? offset : -1;
  }

  /** Loads 64 bits into `word`. An unaligned load may tear. */
  load64(hi: number, lo: number): number {
    // Rotated: one that is not aligned is beyond every chunk, so one compare finds that too.
    const offset = (lo - this.#lo) | 0;
    const index = ((offset >>> 3) | (offset << 29)) >>> 0;
    if (hi !== this.#hi || index >= this.#words >>> 0) return this.#load64Elsewhere(hi, lo);
    loaded64[0] = this.#u64[index];
    return OK;
  }

  /** Not in the chunk that was found last, or not aligned. */
  #load64Elsewhere(hi: number, lo: number): number {
    if ((lo & 7) !== 0) return this.#loadUnaligned64(hi, lo);
    if (!this.#holds(hi, lo)) return FAULT;
    loaded64[0] = this.#u64[(lo - this.#lo) >>> 3];
    return OK;
  }

  load64BE(hi: number, lo: number): number {
    if (this.load64(hi, lo) < 0) return FAULT;
    const high = loadedView.getInt32(0);
    loaded[0] = loadedView.getInt32(4);
    loaded[1] = high;
    return OK;
  }

  load32(hi: number, lo: number): number {
    if ((lo & 3) !== 0) return this.#loadUnaligned32(hi, lo);
    if (!this.#holds(hi, lo)) return FAULT;
    loaded[0] = this.#i32[(lo - this.#lo) >>> 2];
    loaded[1] = 0;
    return OK;
  }

  load32BE(hi: number, lo: number): number {
    if (this.load32(hi, lo) < 0) return FAULT;
    loaded[0] = loadedView.getInt32(0);
    return OK;
  }

  load16(hi: number, lo: number): number {
    const offset = this.#find(hi, lo, 2);
    if (offset < 0) return FAULT;
    loaded[0] = this.#chunk.view.getUint16(offset, true);
    loaded[1] = 0;
    return OK;
  }

  #loadUnaligned64(hi: number, lo: number): number {
    const offset = this.#find(hi, lo, 8);
    if (offset < 0) return FAULT;
    loaded[0] = this.#chunk.view.getInt32(offset, true);
    loaded[1] = this.#chunk.view.getInt32(offset + 4, true);
    return OK;
  }

  #loadUnaligned32(hi: number, lo: number): number {
    const offset = this.#find(hi, lo, 4);
    if (offset < 0) return FAULT;
    loaded[0] = this.#chunk.view.getInt32(offset, true);
    loaded[1] = 0;
    return OK;
  }

  /** Stores the 64-bit value (valueHi, valueLo). An unaligned store may tear. */
  store64(hi: number, lo: number, valueHi: number, valueLo: number): number {
    if ((lo & 7) !== 0) return this.#storeUnaligned64(hi, lo, valueHi, valueLo);
    if (!this.#holds(hi, lo) || this.#readOnly) return FAULT;
    stored[0] = valueLo;
    stored[1] = valueHi;
    this.#u64[(lo - this.#lo) >>> 3] = stored64[0];
    if (this.log !== null) this.#note(hi, lo, 8);
    return OK;
  }

  store64BE(hi: number, lo: number, valueHi: number, valueLo: number): number {
    return this.store64(hi, lo, swap32(valueLo), swap32(valueHi));
  }

  store32(hi: number, lo: number, value: number): number {
    if ((lo & 3) !== 0) return this.#storeUnaligned32(hi, lo, value);
    if (!this.#holds(hi, lo) || this.#readOnly) return FAULT;
    this.#i32[(lo - this.#lo) >>> 2] = value;
    if (this.log !== null) this.#note(hi, lo, 4);
    return OK;
  }

  store32BE(hi: number, lo: number, value: number): number {
    return this.store32(hi, lo, swap32(value));
  }

  store16(hi: number, lo: number, value: number): number {
    const offset = this.#find(hi, lo, 2);
    if (offset < 0 || this.#readOnly) return FAULT;
    this.#chunk.view.setUint16(offset, value, true);
    if (this.log !== null) this.#note(hi, lo, 2);
    return OK;
  }

  #storeUnaligned64(hi: number, lo: number, valueHi: number, valueLo: number): number {
    const offset = this.#find(hi, lo, 8);
    if (offset < 0 || this.#readOnly) return FAULT;
    this.#chunk.view.setInt32(offset, valueLo, true);
    this.#chunk.view.setInt32(offset + 4, valueHi, true);
    if (this.log !== null) this.#note(hi, lo, 8);
    return OK;
  }

  #storeUnaligned32(hi: number, lo: number, value: number): number {
    const offset = this.#find(hi, lo, 4);
    if (offset < 0 || this.#readOnly) return FAULT;
    this.#chunk.view.setInt32(offset, value, true);
    if (this.log !== null) this.#note(hi, lo, 4);
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
    if (this.log !== null) this.#note(hi, lo, 8);
    return 1;
  }

  /** Loads `count` aligned 64-bit words, each in one piece. They lie in one region, or nothing is loaded. */
  loadRun64(hi: number, lo: number, to: BigUint64Array, count: number): number {
    if ((lo & 7) !== 0 || this.#find(hi, lo, count * 8) < 0) return FAULT;
    const from = this.#u64;
    const first = ((lo - this.#lo) >>> 3) | 0;
    // Four in a turn, for each turn looks at the shapes of both arrays anew.
    let i = 0;
    for (; i <= count - 4; i += 4) {
      const at = (first + i) | 0;
      to[i] = from[at];
      to[i | 1] = from[(at + 1) | 0];
      to[i | 2] = from[(at + 2) | 0];
      to[i | 3] = from[(at + 3) | 0];
    }
    for (; i < count; i++) to[i] = from[(first + i) | 0];
    return OK;
  }

  /** Stores the first `count` words of `from`, each in one piece. They lie in one region that can be written, or nothing is stored. */
  storeRun64(hi: number, lo: number, from: BigUint64Array, count: number): number {
    if ((lo & 7) !== 0 || this.#find(hi, lo, count * 8) < 0 || this.#readOnly) return FAULT;
    const to = this.#u64;
    const first = ((lo - this.#lo) >>> 3) | 0;
    for (let i = 0; i < count; i++) to[(first + i) | 0] = from[i];
    if (this.log !== null) this.#note(hi, lo, count * 8);
    return OK;
  }

  /**
   * Stores (0, value) over aligned 64-bit words, `most` at most, as long as they are like the first: in the high half, and in these bits of the low
   * one. Returns how many, or a fault, and then nothing was stored: `most` of them do not lie in one region that can be written.
   */
  replaceAlike64(hi: number, lo: number, bits: number, most: number, value: number): number {
    if ((lo & 7) !== 0 || this.#find(hi, lo, most * 8) < 0 || this.#readOnly) return FAULT;
    const words = this.#u64;
    const first = ((lo - this.#lo) >>> 3) | 0;
    stored[0] = value;
    stored[1] = 0;
    const wanted = stored64[0];
    loaded64[0] = words[first];
    const alikeLo = loaded[0] & bits;
    const alikeHi = loaded[1];
    let done = 0;
    for (let at = first; done < most; at = (at + 1) | 0) {
      loaded64[0] = words[at];
      if ((loaded[0] & bits) !== alikeLo || loaded[1] !== alikeHi) break;
      words[at] = wanted;
      done = (done + 1) | 0;
    }
    if (this.log !== null) this.#note(hi, lo, done * 8);
    return done;
  }

  /** Copies guest memory into `to[at, at + bytes)`. All of it is RAM, or nothing is copied. @throws RangeError when the array has no such bytes. */
  read(hi: number, lo: number, to: Uint8Array, at: number, bytes: number): number {
    const words = this.#wordsFor(hi, lo, to, at, bytes);
    if (words === null) return this.#readBytes(hi, lo, to, at, bytes);
    copyWords(this.#u64, (lo - this.#lo) >>> 3, words, at >>> 3, bytes >>> 3);
    const whole = bytes & ~7;
    return whole === bytes ? OK : this.#readBytes(hi, (lo + whole) | 0, to, at + whole, bytes - whole);
  }

  #readBytes(hi: number, lo: number, to: Uint8Array, at: number, bytes: number): number {
    requireWithin(to, at, bytes);
    const offset = this.#find(hi, lo, bytes);
    if (offset < 0) return this.#pieces(hi, lo, bytes, false, (chunk, from, done, size) => copyBytes(chunk.u8, from, to, at + done, size));
    copyBytes(this.#chunk.u8, offset, to, at, bytes);
    return OK;
  }

  /** Copies `from[at, at + bytes)` into guest memory. All of it is RAM that can be written, or nothing is copied. @throws RangeError when the array has no such bytes. */
  write(hi: number, lo: number, from: Uint8Array, at: number, bytes: number): number {
    const words = this.#wordsFor(hi, lo, from, at, bytes);
    if (words === null) return this.#writeBytes(hi, lo, from, at, bytes);
    if (this.#readOnly) return FAULT;
    const whole = bytes & ~7;
    copyWords(words, at >>> 3, this.#u64, (lo - this.#lo) >>> 3, whole >>> 3);
    if (this.log !== null) this.#note(hi, lo, whole);
    return whole === bytes ? OK : this.#writeBytes(hi, (lo + whole) | 0, from, at + whole, bytes - whole);
  }

  #writeBytes(hi: number, lo: number, from: Uint8Array, at: number, bytes: number): number {
    requireWithin(from, at, bytes);
    const offset = this.#find(hi, lo, bytes);
    if (offset >= 0 && this.#readOnly) return FAULT;
    if (offset >= 0) copyBytes(from, at, this.#chunk.u8, offset, bytes);
    else {
      const result = this.#pieces(hi, lo, bytes, true, (chunk, to, done, size) => copyBytes(from, at + done, chunk.u8, to, size));
      if (result !== OK) return result;
    }
    if (this.log !== null) this.#note(hi, lo, bytes);
    return OK;
  }

  /** The array in words of 64 bits, if a copy between it and one chunk, which is the current one then, can be made in such, but for a last part of one; null: it cannot. */
  #wordsFor(hi: number, lo: number, array: Uint8Array, at: number, bytes: number): BigUint64Array | null {
    if (((lo | at) & 7) !== 0 || at >>> 0 !== at || bytes >>> 0 !== bytes || bytes > IN_WORDS || !this.#holds(hi, lo)) return null;
    if (((lo - this.#lo) >>> 3) + ((bytes + 7) >>> 3) > this.#words || at + bytes > array.length) return null;
    const words = this.#arrayWords.of(array);
    return at + (bytes & ~7) <= words.length * 8 ? words : null;
  }

  /** Walks a range that lies in more than one chunk, twice: the first round finds out whether all of it is RAM, and can be written when it is to be. */
  #pieces(
    hi: number,
    lo: number,
    bytes: number,
    store: boolean,
    piece: (chunk: Chunk, offset: number, done: number, size: number) => void,
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
        if (store && chunk.region.readOnly) return FAULT;
        if (act) piece(chunk, offset, done, size);
        done += size;
      }
    }
    return OK;
  }

  #note(hi: number, lo: number, bytes: number): void {
    if (bytes === 0 || this.#chunk.region.registersOf !== undefined) return;
    const first = pfnOfHiLo(hi, lo);
    this.log?.note(first, Math.floor(((lo & (PAGE_BYTES - 1)) + bytes - 1) / PAGE_BYTES) + 1);
  }
}

function requireWithin(array: Uint8Array, at: number, bytes: number): void {
  if (!(at >= 0 && bytes >= 0 && at + bytes <= array.length && Number.isInteger(at) && Number.isInteger(bytes)))
    throw new RangeError(`GuestMemory: ${bytes} bytes at ${at} are not within an array of ${array.length}`);
}

function swap32(value: number): number {
  return (value >>> 24) | ((value >>> 8) & 0xff00) | ((value << 8) & 0xff0000) | (value << 24) | 0;
}
