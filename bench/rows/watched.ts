import { followingPaths, type Hardware, hardwares } from '../hardware.ts';
import type { Row, Variant, Work } from '../row.ts';
import { type ScaleGuest, scaleGuest } from '../scale/guests.ts';

/** Maps and unmaps in a batch. */
const PAIRS = 16;

/** Stores of a RISC-V guest's CPU to an entry of the last of its tables, a page that comes and one that goes in turn: each is followed before it is done. */
export class WatchedStores implements Work {
  readonly operations = 2 * PAIRS;
  readonly #guest: ScaleGuest;
  readonly #space: number;

  constructor(path: string, hardware: Hardware, spaces: number) {
    this.#guest = scaleGuest('riscv', spaces, { path, nesting: hardwares[hardware]() });
    this.#space = spaces - 1;
  }

  batch(): number {
    for (let i = 0; i < PAIRS; i++) {
      this.#guest.store(this.#space, true);
      this.#guest.store(this.#space, false);
    }
    return PAIRS;
  }
}

function variant(path: string, hardware: Hardware, spaces: number): Variant {
  const shown = spaces === 1 ? '' : `, ${spaces.toLocaleString('en')} spaces`;
  return { name: `${path}, ${hardware}${shown}`, goal: null, baseline: null, setup: () => new WatchedStores(path, hardware, spaces) };
}

/** A store to a watched table, on each path that follows its guest, over the simulated kernel. */
export const watchedStore: Row = {
  name: 'watched-store',
  baseline: null,
  variants: [1, 2048].flatMap((spaces) => followingPaths.map(([path, hardware]) => variant(path, hardware, spaces))),
};
