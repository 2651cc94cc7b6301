import type { QueueMemory } from './queue-memory.ts';

/** A piece's three int32 in `#pieces`: its address and, unsigned, its bytes. */
const HI = 0;
const LO = 1;
const BYTES = 2;
const WIDTH = 3;

/** Descriptors that one buffer may have ("The device MAY have a reasonable limit", 2.7.4.1). */
export const CHAIN_LIMIT = 1024;
/** The same, for the compiler folds no exported constant. */
const LIMIT: typeof CHAIN_LIMIT = 1024;

/**
 * One buffer of a virtqueue: pieces of guest memory, the device-readable ones first (2.6, 2.7.4.2). Reused: allocates only to grow.
 *
 * @example
 * const memory = GuestMemory.ofBytes(4096);
 * const chain = new Chain();
 * chain.add(0, 0x100, 2, false); // true: two bytes to read at 0x100
 * chain.add(0, 0x200, 1, true); // true: one to write at 0x200
 * chain.write(memory, 0, Uint8Array.of(7), 0, 1); // 0
 * memory.load64(0, 0x200);
 * memory.word[0]; // 7
 */
export class Chain {
  /** What the driver knows it by: its first descriptor (split), its buffer ID (packed). */
  id = 0;
  /** Entries that it takes up in a packed ring. */
  entries = 0;
  /** Bytes that the device can read, and write. */
  readable = 0;
  writable = 0;
  #pieces = new Int32Array(8 * WIDTH);
  #count = 0;
  #firstWritable = 0;
  readonly #word = new Uint8Array(4);

  clear(): void {
    this.#count = 0;
    this.#firstWritable = 0;
    this.readable = 0;
    this.writable = 0;
  }

  /** Adds a piece. False: too many, or one to be read behind one to be written (2.7.4.2). */
  add(hi: number, lo: number, bytes: number, writable: boolean): boolean {
    const index = this.#count;
    if (index === LIMIT || (!writable && this.#firstWritable < index)) return false;
    if (bytes === 0) return true;
    const piece = index * WIDTH;
    if (piece === this.#pieces.length) this.#grow();
    this.#pieces[piece + HI] = hi;
    this.#pieces[piece + LO] = lo;
    this.#pieces[piece + BYTES] = bytes;
    this.#count = index + 1;
    if (writable) this.writable += bytes;
    else {
      this.readable += bytes;
      this.#firstWritable = index + 1;
    }
    return true;
  }

  /** Copies the first `bytes` device-readable bytes, or as many as there are. Returns how many; negative: a piece is no RAM. */
  read(memory: QueueMemory, to: Uint8Array, at: number, bytes: number): number {
    let done = 0;
    for (let i = 0; i < this.#firstWritable && done < bytes; i++) {
      const piece = i * WIDTH;
      const length = this.#pieces[piece + BYTES];
      const left = bytes - done;
      // An int32 all the way, but for pieces of 2 GiB and more.
      const size = length >= 0 && length < left ? length : Math.min(length >>> 0, left);
      const answer = memory.read(this.#pieces[piece + HI], this.#pieces[piece + LO], to, at + done, size);
      if (answer < 0) return answer;
      done += size;
    }
    return done;
  }

  /** Copies `from[at, at + bytes)` to the device-writable part, `offset` bytes into it, which must be that long. Negative: a piece is no RAM. */
  write(memory: QueueMemory, offset: number, from: Uint8Array, at: number, bytes: number): number {
    let skip = offset;
    let done = 0;
    for (let i = this.#firstWritable; i < this.#count && done < bytes; i++) {
      const piece = i * WIDTH;
      const length = this.#pieces[piece + BYTES] >>> 0;
      if (skip >= length) {
        skip -= length;
        continue;
      }
      const size = Math.min(length - skip, bytes - done);
      const low = (this.#pieces[piece + LO] >>> 0) + skip;
      const hi = this.#pieces[piece + HI];
      // Never from the end of the address space to its beginning.
      const carry = low >= 2 ** 32 && hi !== -1 ? 1 : 0;
      const answer = memory.write((hi + carry) | 0, low | 0, from, at + done, size);
      if (answer < 0) return answer;
      done += size;
      skip = 0;
    }
    return 0;
  }

  /** The same as `write` for a little-endian word, which answers most often are. */
  store32(memory: QueueMemory, offset: number, value: number): number {
    const piece = this.#firstWritable * WIDTH;
    const lo = this.#pieces[piece + LO];
    if (offset === 0 && this.#firstWritable < this.#count && this.#pieces[piece + BYTES] >>> 0 >= 4 && (lo & 3) === 0)
      return memory.store32(this.#pieces[piece + HI], lo, value);
    this.#word[0] = value;
    this.#word[1] = value >>> 8;
    this.#word[2] = value >>> 16;
    this.#word[3] = value >>> 24;
    return this.write(memory, offset, this.#word, 0, 4);
  }

  #grow(): void {
    const pieces = new Int32Array(2 * this.#pieces.length);
    pieces.set(this.#pieces);
    this.#pieces = pieces;
  }
}
