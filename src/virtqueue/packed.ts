import { LOADED } from '../memory/loaded.ts';
import { CHAIN_LIMIT, type Chain } from './chain.ts';
import type { QueueMemory } from './queue-memory.ts';
import { RingArea } from './ring-area.ts';
import { BROKEN, EMPTY, type QueueSetup, type RingFeatures, TAKEN, type Virtqueue } from './virtqueue.ts';

/** LOADED, here because the compiler folds a module's own constants only. */
const word = LOADED;

/** struct pvirtq_desc (2.8.13): addr at 0, len at 8, id at 12, flags at 14. */
const DESCRIPTOR_BYTES = 16;
const DESC_F_NEXT = 1;
const DESC_F_WRITE = 2;
const DESC_F_INDIRECT = 4;
const DESC_F_AVAIL = 1 << 7;
const DESC_F_USED = 1 << 15;

/** struct pvirtq_event_suppress (2.8.14): offset (15 bits) and wrap counter at 0, flags at 2. */
const EVENT_FLAGS = 2;
const EVENT_WRAP = 1 << 15;
const EVENT_FLAGS_ENABLE = 0;
const EVENT_FLAGS_DISABLE = 1;
const EVENT_FLAGS_DESC = 2;

/** A packed virtqueue (2.8). */
export class PackedQueue implements Virtqueue {
  readonly #size: number = 0;
  /** Entries that a buffer may have in the ring. */
  readonly #limit: number = 0;
  readonly #features: RingFeatures;
  readonly #ring: RingArea;
  readonly #driver: RingArea;
  readonly #device: RingArea;
  readonly #indirect: RingArea;
  /** Next entry to take and the wrap counter there (2.8.1); the same for the next entry to use. */
  #next = 0;
  #wrap = 1;
  #used = 0;
  #usedWrap = 1;
  /** Entries used since the driver was last told. */
  #fresh = 0;

  /** Whether a ring can have that size and those addresses (2.8.10.1). */
  static accepts({ size, descriptors, driver, device }: QueueSetup): boolean {
    return size <= 32768 && descriptors % 16n === 0n && driver % 4n === 0n && device % 4n === 0n;
  }

  constructor(memory: QueueMemory, setup: QueueSetup, features: RingFeatures) {
    this.#size = setup.size;
    this.#limit = Math.min(setup.size, CHAIN_LIMIT);
    this.#features = features;
    this.#ring = new RingArea(memory, setup.descriptors);
    this.#driver = new RingArea(memory, setup.driver);
    this.#device = new RingArea(memory, setup.device);
    this.#indirect = new RingArea(memory, 0n);
  }

  take(chain: Chain): number {
    const state = this.#available();
    if (state !== TAKEN) return state;
    chain.clear();
    const limit = this.#limit;
    let place = this.#next;
    for (let entries = 1; entries <= limit; entries++) {
      const at = place * DESCRIPTOR_BYTES;
      // The flags first: what they make available was written before them.
      if (this.#ring.load64(at + 8) < 0) return BROKEN;
      const bytes = word[0] >>> 0;
      const flags = word[1] >>> 16;
      const id = word[1] & 0xffff;
      if (this.#ring.load64(at) < 0) return BROKEN;
      if ((flags & DESC_F_INDIRECT) !== 0) {
        // 2.8.8: a list has descriptors of one kind only.
        if (!this.#features.indirect || entries > 1 || (flags & DESC_F_NEXT) !== 0) return BROKEN;
        this.#indirect.moveTo(word[1], word[0]);
        if (!this.#readIndirect(bytes / DESCRIPTOR_BYTES, chain)) return BROKEN;
      } else if (!chain.add(word[1], word[0], bytes, (flags & DESC_F_WRITE) !== 0)) return BROKEN;
      place = place + 1 === this.#size ? 0 : place + 1;
      if ((flags & DESC_F_NEXT) === 0) {
        chain.id = id;
        chain.entries = entries;
        if (this.#next + entries >= this.#size) this.#wrap ^= 1;
        this.#next = place;
        return TAKEN;
      }
    }
    return BROKEN;
  }

  give(chain: Chain, written: number): number {
    const flags = (this.#usedWrap === 1 ? DESC_F_AVAIL | DESC_F_USED : 0) | (written > 0 ? DESC_F_WRITE : 0);
    const at = this.#used * DESCRIPTOR_BYTES + 8;
    this.#fresh += chain.entries;
    this.#used += chain.entries;
    if (this.#used >= this.#size) {
      this.#used -= this.#size;
      this.#usedWrap ^= 1;
    }
    return this.#ring.store64(at, (flags << 16) | chain.id, written);
  }

  publish(): boolean {
    const fresh = this.#fresh;
    this.#fresh = 0;
    if (fresh === 0) return false;
    const flags = this.#driver.load16(EVENT_FLAGS) & 3;
    if (flags === EVENT_FLAGS_DISABLE) return false;
    if (flags !== EVENT_FLAGS_DESC || !this.#features.eventIdx) return true;
    // 2.8.10: when the entry that the driver names is among the `fresh` ones before #used.
    const event = this.#driver.load16(0);
    const behind = this.#used - (event & ~EVENT_WRAP) + (((event & EVENT_WRAP) !== 0) === (this.#usedWrap === 1) ? 0 : this.#size);
    return behind > 0 && behind <= fresh;
  }

  rearm(): boolean {
    if (this.#features.eventIdx) this.#device.store16(0, this.#next | (this.#wrap === 1 ? EVENT_WRAP : 0));
    this.#device.store16(EVENT_FLAGS, this.#features.eventIdx ? EVENT_FLAGS_DESC : EVENT_FLAGS_ENABLE);
    return this.#available() === TAKEN;
  }

  save(): readonly number[] {
    return [this.#next, this.#wrap, this.#used, this.#usedWrap];
  }

  restore(positions: readonly number[]): boolean {
    const [next, wrap, used, usedWrap] = positions;
    if (positions.length !== 4 || next >= this.#size || used >= this.#size || wrap > 1 || usedWrap > 1) return false;
    this.#next = next;
    this.#wrap = wrap;
    this.#used = used;
    this.#usedWrap = usedWrap;
    this.#fresh = 0;
    return true;
  }

  /** Whether the driver has made the next entry available (2.8.1). */
  #available(): number {
    const flags = this.#ring.load16(this.#next * DESCRIPTOR_BYTES + 14);
    if (flags < 0) return BROKEN;
    const available = (flags & DESC_F_AVAIL) !== 0;
    const used = (flags & DESC_F_USED) !== 0;
    return available !== used && available === (this.#wrap === 1) ? TAKEN : EMPTY;
  }

  /** 2.8.7: entries one after the other, only their WRITE flag counts. */
  #readIndirect(count: number, chain: Chain): boolean {
    if (count < 1 || count > CHAIN_LIMIT || count % 1 !== 0) return false;
    for (let i = 0; i < count; i++) {
      if (this.#indirect.load64(i * DESCRIPTOR_BYTES + 8) < 0) return false;
      const bytes = word[0] >>> 0;
      const writable = ((word[1] >>> 16) & DESC_F_WRITE) !== 0;
      if (this.#indirect.load64(i * DESCRIPTOR_BYTES) < 0) return false;
      if (!chain.add(word[1], word[0], bytes, writable)) return false;
    }
    return true;
  }
}
