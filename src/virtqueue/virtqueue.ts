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
