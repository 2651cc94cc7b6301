import { IntervalMap } from '../../src/memory/interval-map.ts';
import { Random } from '../random.ts';
import type { Row, Work } from '../row.ts';

const PAGES = 4;
const STRIDE = 8;

/**
 * Random lookups (half), insertions and removals over twice as many places as there are intervals on average; so half of the
 * insertions meet an interval, and half of the removals nothing.
 */
class Mix implements Work {
  readonly operations = 1 << 11;
  readonly #map: IntervalMap;
  readonly #random = new Random();
  readonly #places: number;

  constructor(intervals: number) {
    this.#places = 2 * intervals;
    this.#map = new IntervalMap(this.#places);
    while (this.#map.size < intervals) {
      const first = this.#place();
      this.#map.insert(first, PAGES, 3 * first, 3);
    }
  }

  #place(): number {
    return ((((this.#random.next() >>> 2) * this.#places) / 2 ** 30) | 0) * STRIDE;
  }

  batch(): number {
    const map = this.#map;
    const random = this.#random;
    let sum = 0;
    for (let i = 0; i < this.operations; i++) {
      const kind = random.next() & 0x300;
      const first = this.#place();
      if (kind === 0) sum = (sum + (map.insert(first, PAGES, 3 * first, 3) < 0 ? 1 : 2)) | 0;
      else if (kind === 0x100) sum = (sum + map.remove(first, PAGES)) | 0;
      else {
        const slot = map.lookup(first + 1);
        if (slot >= 0) sum = (sum + map.valueOf(slot)) | 0;
      }
    }
    return sum;
  }
}

export const row: Row = {
  name: 'interval-map',
  baseline: 'AVL tree of malloced nodes',
  variants: [
    { name: '10K', goal: 1.3, baseline: { program: 'interval-map', arguments: ['10000'] }, setup: () => new Mix(10_000) },
    { name: '1M', goal: 0.5, baseline: { program: 'interval-map', arguments: ['1000000'] }, setup: () => new Mix(1_000_000) },
  ],
};
