import { LOADED } from '../memory/loaded.ts';
import { CHAIN_LIMIT, type Chain } from './chain.ts';
import type { QueueMemory } from './queue-memory.ts';
import { RingArea } from './ring-area.ts';
import { BROKEN, EMPTY, type QueueSetup, type RingFeatures, TAKEN, type Virtqueue } from './virtqueue.ts';

/** LOADED, here because the compiler folds a module's own constants only. */
const word = LOADED;

/** struct virtq_desc (2.7.5): addr at 0, len at 8, flags at 12, next at 14. */
const DESCRIPTOR_BYTES = 16;
const DESC_F_NEXT = 1;
const DESC_F_WRITE = 2;
const DESC_F_INDIRECT = 4;

/** struct virtq_avail (2.7.6): flags at 0, idx at 2, then the ring, then used_event. */
const AVAIL_IDX = 2;
const AVAIL_RING = 4;
const AVAIL_F_NO_INTERRUPT = 1;

/** struct virtq_used (2.7.8): flags at 0, idx at 2, then the ring of id and len, then avail_event. */
const USED_IDX = 2;
const USED_RING = 4;

/** A split virtqueue (2.7). */
export class SplitQueue implements Virtqueue {
  readonly #size: number = 0;
  /** Descriptors that a chain may have in the ring. */
  readonly #limit: number = 0;
  readonly #features: RingFeatures;
  readonly #descriptors: RingArea;
  readonly #available: RingArea;
  readonly #used: RingArea;
  readonly #indirect: RingArea;
  /** Free-running: the next entry to take, the driver's idx as last read, the next entry to use, and what the driver was shown. */
  #next = 0;
  #end = 0;
  #usedIdx = 0;
  #shown = 0;

  /** Whether a ring can have that size and those addresses (2.7). */
  static accepts({ size, descriptors, driver, device }: QueueSetup): boolean {
    return size <= 32768 && (size & (size - 1)) === 0 && descriptors % 16n === 0n && driver % 2n === 0n && device % 4n === 0n;
  }

  constructor(memory: QueueMemory, setup: QueueSetup, features: RingFeatures) {
    this.#size = setup.size;
    this.#limit = Math.min(setup.size, CHAIN_LIMIT);
    this.#features = features;
    this.#descriptors = new RingArea(memory, setup.descriptors);
    this.#available = new RingArea(memory, setup.driver);
    this.#used = new RingArea(memory, setup.device);
    this.#indirect = new RingArea(memory, 0n);
  }

  take(chain: Chain): number {
    if ((this.#next === this.#end || this.#end < 0) && this.#readIdx() <= 0) return this.#end < 0 ? BROKEN : EMPTY;
    const head = this.#available.load16(AVAIL_RING + 2 * (this.#next & (this.#size - 1)));
    if (head < 0) return BROKEN;
    this.#next = (this.#next + 1) & 0xffff;
    chain.clear();
    chain.id = head;
    return this.#walk(head, chain);
  }

  give(chain: Chain, written: number): number {
    const offset = USED_RING + 8 * (this.#usedIdx & (this.#size - 1));
    this.#usedIdx = (this.#usedIdx + 1) & 0xffff;
    return this.#used.store64(offset, written, chain.id);
  }

  publish(): boolean {
    const count = (this.#usedIdx - this.#shown) & 0xffff;
    if (count === 0) return false;
    const before = this.#shown;
    this.#shown = this.#usedIdx;
    this.#used.store16(USED_IDX, this.#usedIdx);
    if (!this.#features.eventIdx) return (this.#available.load16(0) & AVAIL_F_NO_INTERRUPT) === 0;
    // 2.7.7.2: interrupt when the entry numbered used_event is among those just written.
    const event = this.#available.load16(AVAIL_RING + 2 * this.#size);
    return event < 0 || ((event - before) & 0xffff) < count;
  }

  rearm(): boolean {
    if (this.#features.eventIdx) this.#used.store16(USED_RING + 8 * this.#size, this.#next);
    return this.#readIdx() > 0;
  }

  save(): readonly number[] {
    return [this.#next, this.#usedIdx];
  }

  restore(positions: readonly number[]): boolean {
    if (positions.length !== 2 || positions.some((position) => position > 0xffff)) return false;
    const [next, usedIdx] = positions;
    this.#next = next;
    this.#end = next;
    this.#usedIdx = usedIdx;
    this.#shown = usedIdx;
    return true;
  }

  /** Reads how far the driver has come. Buffers available; negative when that is no RAM or more than the ring holds. */
  #readIdx(): number {
    const idx = this.#available.load16(AVAIL_IDX);
    const count = (idx - this.#next) & 0xffff;
    this.#end = idx < 0 || count > this.#size ? BROKEN : idx;
    return this.#end < 0 ? BROKEN : count;
  }

  /** Follows the chain (2.7.5), at its end perhaps into an indirect table (2.7.5.3). */
  #walk(head: number, chain: Chain): number {
    let table = this.#descriptors;
    let size = this.#size;
    let index = head;
    for (let left = this.#limit; left > 0; left--) {
      if (index >= size || table.load64(index * DESCRIPTOR_BYTES) < 0) return BROKEN;
      const lo = word[0];
      const hi = word[1];
      if (table.load64(index * DESCRIPTOR_BYTES + 8) < 0) return BROKEN;
      const bytes = word[0] >>> 0;
      const flags = word[1] & 0xffff;
      const next = word[1] >>> 16;
      if ((flags & DESC_F_INDIRECT) !== 0) {
        if (!this.#features.indirect || table === this.#indirect || (flags & DESC_F_NEXT) !== 0) return BROKEN;
        table = this.#indirect;
        table.moveTo(hi, lo);
        size = bytes / DESCRIPTOR_BYTES;
        if (size < 1 || size % 1 !== 0) return BROKEN;
        index = 0;
        left = Math.min(size, CHAIN_LIMIT) + 1;
        continue;
      }
      if (!chain.add(hi, lo, bytes, (flags & DESC_F_WRITE) !== 0)) return BROKEN;
      if ((flags & DESC_F_NEXT) === 0) return TAKEN;
      index = next;
    }
    return BROKEN;
  }
}
