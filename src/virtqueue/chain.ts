import type { QueueMemory } from './queue-memory.ts';

const FRAME = 2 ** 32;

/** Descriptors that one buffer may have ("The device MAY have a reasonable limit", 2.7.4.1). */
export const CHAIN_LIMIT = 1024;

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
  /** Address and bytes of each piece. */
  #at = new Float64Array(8);
  #bytes = new Float64Array(8);
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
    if (index === CHAIN_LIMIT || (!writable && this.#firstWritable < index)) return false;
    if (bytes === 0) return true;
    if (index === this.#at.length) this.#grow();
    this.#at[index] = (hi >>> 0) * FRAME + (lo >>> 0);
    this.#bytes[index] = bytes;
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
      const size = Math.min(this.#bytes[i], bytes - done);
      const from = this.#at[i];
      const answer = memory.read((from / FRAME) | 0, from | 0, to, at + done, size);
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
      if (skip >= this.#bytes[i]) {
        skip -= this.#bytes[i];
        continue;
      }
      const size = Math.min(this.#bytes[i] - skip, bytes - done);
      const to = this.#at[i] + skip;
      const answer = memory.write((to / FRAME) | 0, to | 0, from, at + done, size);
      if (answer < 0) return answer;
      done += size;
      skip = 0;
    }
    return 0;
  }

  /** The same as `write` for a little-endian word, which answers most often are. */
  store32(memory: QueueMemory, offset: number, value: number): number {
    const piece = this.#firstWritable;
    const to = this.#at[piece];
    if (offset === 0 && piece < this.#count && this.#bytes[piece] >= 4 && (to & 3) === 0)
      return memory.store32((to / FRAME) | 0, to | 0, value);
    this.#word[0] = value;
    this.#word[1] = value >>> 8;
    this.#word[2] = value >>> 16;
    this.#word[3] = value >>> 24;
    return this.write(memory, offset, this.#word, 0, 4);
  }

  #grow(): void {
    const at = new Float64Array(2 * this.#at.length);
    const bytes = new Float64Array(2 * this.#at.length);
    at.set(this.#at);
    bytes.set(this.#bytes);
    this.#at = at;
    this.#bytes = bytes;
  }
}
