import type { QueueMemory } from './queue-memory.ts';

/** One area of a ring in guest memory, addressed by byte offset. */
export class RingArea {
  readonly memory: QueueMemory;
  /** Guest-physical; an address that a double cannot hold is above all RAM as well. */
  #base: number;

  constructor(memory: QueueMemory, base: bigint) {
    this.memory = memory;
    this.#base = Number(base);
  }

  /** Goes to another place: for indirect tables. */
  moveTo(hi: number, lo: number): void {
    this.#base = (hi >>> 0) * 2 ** 32 + (lo >>> 0);
  }

  /** Loads into `memory.word`. */
  load64(offset: number): number {
    const address = this.#base + offset;
    return this.memory.load64((address / 2 ** 32) | 0, address | 0);
  }

  /** The value, or -1. */
  load16(offset: number): number {
    const address = this.#base + offset;
    return this.memory.load16((address / 2 ** 32) | 0, address | 0) < 0 ? -1 : this.memory.word[0];
  }

  store64(offset: number, high: number, low: number): number {
    const address = this.#base + offset;
    return this.memory.store64((address / 2 ** 32) | 0, address | 0, high, low);
  }

  store16(offset: number, value: number): number {
    const address = this.#base + offset;
    return this.memory.store16((address / 2 ** 32) | 0, address | 0, value);
  }
}
