import { joinHiLo } from '../../../memory/address.ts';
import { GuestMemory } from '../../../memory/guest-memory.ts';

const FRAME = 2 ** 32;

/** Words of guest memory, by address, as a recording says them: an address and a value in turn. */
export type Words = bigint[];

/**
 * Guest memory that remembers what was read of it, and what was written to it, in aligned words of 64 bits. A word that a replay has already,
 * because it was said before or was written by the target itself, is not said again.
 */
export class RecordingMemory extends GuestMemory {
  /** What a replay's memory holds, by word number; nothing: 0. */
  readonly #known = new Map<number, bigint | null>();
  #read: Words = [];
  #stored: Words = [];
  #aside = false;

  constructor() {
    super([]);
  }

  /** What was read since the last time and a replay does not have. */
  takeRead(): Words {
    return this.#read.splice(0);
  }

  /** What was written since the last time. */
  takeStored(): Words {
    return this.#stored.splice(0);
  }

  /** A replay may put something else there: the word that holds the address has to be said again. */
  forget(hi: number, lo: number): void {
    this.#known.set(wordOf(hi, lo), null);
  }

  override load64(hi: number, lo: number): number {
    this.#noteRead(hi, lo, 8);
    return super.load64(hi, lo);
  }
  override load32(hi: number, lo: number): number {
    this.#noteRead(hi, lo, 4);
    return super.load32(hi, lo);
  }
  override load16(hi: number, lo: number): number {
    this.#noteRead(hi, lo, 2);
    return super.load16(hi, lo);
  }
  override loadRun64(hi: number, lo: number, to: BigUint64Array, count: number): number {
    this.#noteRead(hi, lo, 8 * count);
    return super.loadRun64(hi, lo, to, count);
  }
  override read(hi: number, lo: number, to: Uint8Array, at: number, bytes: number): number {
    this.#noteRead(hi, lo, bytes);
    return super.read(hi, lo, to, at, bytes);
  }

  override store64(hi: number, lo: number, valueHi: number, valueLo: number): number {
    return this.#noteStore(hi, lo, 8, super.store64(hi, lo, valueHi, valueLo));
  }
  override store32(hi: number, lo: number, value: number): number {
    this.#noteRead(hi, lo, 4);
    return this.#noteStore(hi, lo, 4, super.store32(hi, lo, value));
  }
  override store16(hi: number, lo: number, value: number): number {
    this.#noteRead(hi, lo, 2);
    return this.#noteStore(hi, lo, 2, super.store16(hi, lo, value));
  }
  override storeRun64(hi: number, lo: number, from: BigUint64Array, count: number): number {
    return this.#noteStore(hi, lo, 8 * count, super.storeRun64(hi, lo, from, count));
  }
  override replaceAlike64(hi: number, lo: number, bits: number, most: number, value: number): number {
    this.#noteRead(hi, lo, 8 * most);
    const done = super.replaceAlike64(hi, lo, bits, most, value);
    return this.#noteStore(hi, lo, 8 * done, done);
  }
  override write(hi: number, lo: number, from: Uint8Array, at: number, bytes: number): number {
    this.#noteRead(hi, lo, bytes);
    return this.#noteStore(hi, lo, bytes, super.write(hi, lo, from, at, bytes));
  }
  override compareExchange64(hi: number, lo: number, oldHi: number, oldLo: number, newHi: number, newLo: number): number {
    this.#noteRead(hi, lo, 8);
    const answer = super.compareExchange64(hi, lo, oldHi, oldLo, newHi, newLo);
    return answer === 1 ? this.#noteStore(hi, lo, 8, answer) : answer;
  }

  #noteRead(hi: number, lo: number, bytes: number): void {
    this.#words(hi, lo, bytes, (word, value) => {
      if ((this.#known.get(word) ?? (this.#known.has(word) ? null : 0n)) === value) return;
      this.#known.set(word, value);
      this.#read.push(BigInt(word) * 8n, value);
    });
  }

  #noteStore(hi: number, lo: number, bytes: number, answer: number): number {
    if (answer < 0) return answer;
    this.#words(hi, lo, bytes, (word, value) => {
      this.#known.set(word, value);
      this.#stored.push(BigInt(word) * 8n, value);
    });
    return answer;
  }

  /** Visits the aligned words that a range touches, as far as they are RAM. `word` of this memory stays as it is. */
  #words(hi: number, lo: number, bytes: number, visit: (word: number, value: bigint) => void): void {
    // `read` and the like are made of one another within GuestMemory.
    if (this.#aside) return;
    this.#aside = true;
    const [low, high] = this.word as unknown as [number, number];
    const first = wordOf(hi, lo);
    for (let word = first; word * 8 < (hi >>> 0) * FRAME + (lo >>> 0) + bytes; word++) {
      const address = word * 8;
      if (super.load64(Math.floor(address / FRAME) | 0, (address % FRAME) | 0) < 0) continue;
      visit(word, joinHiLo(this.word[1]!, this.word[0]!));
    }
    this.word[0] = low;
    this.word[1] = high;
    this.#aside = false;
  }
}

function wordOf(hi: number, lo: number): number {
  return Math.floor(((hi >>> 0) * FRAME + (lo >>> 0)) / 8);
}
