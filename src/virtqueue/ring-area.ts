import { hiOf, loOf } from '../memory/address.ts';
import { LOADED } from '../memory/loaded.ts';
import type { QueueMemory } from './queue-memory.ts';

/** LOADED, here because the compiler folds a module's own constants only. */
const word = LOADED;

/** One area of a ring in guest memory, addressed by byte offset: below 2^32, as every ring and table ends. */
export class RingArea {
  readonly #memory: QueueMemory;
  /** Guest-physical. */
  #hi = 0;
  #lo = 0;
  /** Upper half of what lies behind the next multiple of 4 GiB; an area that would end above 2^64 does not come round to address 0. */
  #hiAbove = 0;

  constructor(memory: QueueMemory, base: bigint) {
    this.#memory = memory;
    this.moveTo(hiOf(base), loOf(base));
  }

  /** Goes to another place: for indirect tables. */
  moveTo(hi: number, lo: number): void {
    this.#hi = hi;
    this.#lo = lo;
    this.#hiAbove = hi === -1 ? -1 : (hi + 1) | 0;
  }

  /** Loads into LOADED. */
  load64(offset: number): number {
    const lo = (this.#lo + offset) | 0;
    return this.#memory.load64(this.#hiOf(lo), lo);
  }

  /** The value, or -1. */
  load16(offset: number): number {
    const lo = (this.#lo + offset) | 0;
    return this.#memory.load16(this.#hiOf(lo), lo) < 0 ? -1 : word[0];
  }

  store64(offset: number, high: number, low: number): number {
    const lo = (this.#lo + offset) | 0;
    return this.#memory.store64(this.#hiOf(lo), lo, high, low);
  }

  store16(offset: number, value: number): number {
    const lo = (this.#lo + offset) | 0;
    return this.#memory.store16(this.#hiOf(lo), lo, value);
  }

  #hiOf(lo: number): number {
    return lo >>> 0 < this.#lo >>> 0 ? this.#hiAbove : this.#hi;
  }
}
