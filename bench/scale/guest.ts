import type { Target } from '../../src/target/target.ts';

/** Pages of RAM, beside 8 for each space. */
export const RAM_PAGES = 4096;

/** The guest's part of a machine that has as many address spaces as devices. */
export interface Guest {
  readonly target: Target;
  /** One guest operation on a space: maps one page, or takes it away again. */
  readonly operate: (space: number, map: boolean) => void;
  /** The guest moves the device of a space to where it reaches nothing, or back; null: it cannot. */
  readonly move: ((space: number, away: boolean) => void) | null;
  /** Stores the entry of that page, says nothing, and answers where the 8 bytes lie; left out: its guest announces. */
  readonly store?: (space: number, map: boolean) => bigint;
}

export const endpointOf = (space: number) => 0x100 + space;
