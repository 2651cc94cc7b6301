import { PAGE_LG2, PFN_LIMIT } from '../memory/address.ts';
import type { PfnRange } from './target.ts';

/** Leaves remembered one by one at most; of a size of which there are more, any place may have one. */
const LEAVES = 1 << 14;

/**
 * Where an address space had leaves that map more than a page, as its enumerations met them. An invalidation of one address takes away all that
 * was made of the leaf which covered it, and what covered it is gone from the tables by then.
 */
export class LargeLeaves {
  /** By lg2 of a leaf's bytes: numbers of the leaves of that size, or null where there were too many. */
  readonly #sizes = new Map<number, Set<number> | null>();
  #count = 0;

  /** An enumeration met a leaf of 2^lg2 bytes that holds `page`. */
  add(page: number, lg2: number): void {
    if (lg2 <= PAGE_LG2) return;
    const known = this.#sizes.get(lg2);
    if (known === null) return;
    const leaves = known ?? new Set();
    if (known === undefined) this.#sizes.set(lg2, leaves);
    const before = leaves.size;
    leaves.add(Math.floor(page / 2 ** (lg2 - PAGE_LG2)));
    this.#count += leaves.size - before;
    if (this.#count <= LEAVES) return;
    this.#count -= leaves.size;
    this.#sizes.set(lg2, null);
  }

  /** All that was made of the leaves which may have covered the ends of [first, last]. Where that is everything, it is about to be told anew: nothing is remembered. */
  widened(first: number, last: number): PfnRange {
    const range = { first: this.#first(first), last: this.#last(last) };
    if (range.first === 0 && range.last === PFN_LIMIT - 1) this.#clear();
    return range;
  }

  /** First page of the largest leaf that may have covered `page`. */
  #first(page: number): number {
    let first = page;
    for (const [lg2, leaves] of this.#sizes) if (has(leaves, lg2, page)) first = Math.min(first, startOf(page, lg2));
    return first;
  }

  /** Last page of it. */
  #last(page: number): number {
    let last = page;
    for (const [lg2, leaves] of this.#sizes) {
      if (has(leaves, lg2, page)) last = Math.max(last, Math.min(startOf(page, lg2) + 2 ** (lg2 - PAGE_LG2), PFN_LIMIT) - 1);
    }
    return last;
  }

  #clear(): void {
    this.#sizes.clear();
    this.#count = 0;
  }
}

function startOf(page: number, lg2: number): number {
  return page - (page % 2 ** (lg2 - PAGE_LG2));
}

function has(leaves: Set<number> | null, lg2: number, page: number): boolean {
  return leaves === null || leaves.has(Math.floor(page / 2 ** (lg2 - PAGE_LG2)));
}
