import type { GuestMemory } from '../../memory/guest-memory.ts';
import type { Chain } from './chain.ts';

/** A queue as the driver sets it up through the transport: what its three areas are is the ring format's matter (2.6). */
export interface QueueSetup {
  /** Entries. */
  readonly size: number;
  /** Guest-physical addresses of the Descriptor, Driver and Device Area. */
  readonly descriptors: bigint;
  readonly driver: bigint;
  readonly device: bigint;
}

/** What the negotiated features say of rings (6). */
export interface RingFeatures {
  readonly indirect: boolean;
  readonly eventIdx: boolean;
}

/** What `take` answers. */
export const TAKEN = 1;
export const EMPTY = 0;
/** The ring breaks a rule of 2.7 or 2.8, or leaves guest RAM. The device needs a reset (2.1.2). */
export const BROKEN = -1;

/** The device's side of a virtqueue: the same for split and packed rings. Buffers are given back in the order in which they were taken. */
export interface Virtqueue {
  /** Next buffer that the driver made available. Looks at CHAIN_LIMIT descriptors at most. */
  take(chain: Chain): number;
  /** Gives a buffer back, `written` bytes of its device-writable part written. Negative: the ring is not RAM. */
  give(chain: Chain, written: number): number;
  /** Shows the driver what was given back since the last time; whether it wants to be interrupted for it. */
  publish(): boolean;
  /** Asks the driver to notify when it makes the next buffer available; whether one is available already. */
  rearm(): boolean;
  /** Positions in the rings, as `restore` of a queue with the same setup takes them; false: they cannot be that. */
  save(): readonly number[];
  restore(positions: readonly number[]): boolean;
}

/** One area of a ring in guest memory, addressed by byte offset. */
export class RingArea {
  readonly memory: GuestMemory;
  /** Guest-physical; an address that a double cannot hold is above all RAM as well. */
  #base: number;

  constructor(memory: GuestMemory, base: bigint) {
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
