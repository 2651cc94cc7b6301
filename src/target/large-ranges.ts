import type { PfnRange } from './target.ts';

/**
 * What a guest invalidated of spaces whose tables are more than one enumeration reads. An observer that heard of all at once would take away what it
 * cannot look at; so it hears of it in parts that it can, and what the guest waits for is done when it has heard of all. Tables may lead to themselves
 * and have no end: behind so many parts of a range the rest is announced at once.
 */
export class LargeRanges<Space> {
  readonly #left = new Map<Space, { first: number; last: number; parts: number }>();
  readonly #parts: number;

  constructor(parts: number) {
    this.#parts = parts;
  }

  /** Nothing is left to be announced. */
  get isEmpty(): boolean {
    return this.#left.size === 0;
  }

  /** One range a space: two become one with what lies between them. */
  add(space: Space, { first, last }: PfnRange): void {
    const left = this.#left.get(space);
    if (left === undefined) this.#left.set(space, { first, last, parts: 0 });
    else Object.assign(left, { first: Math.min(left.first, first), last: Math.max(left.last, last) });
  }

  delete(space: Space): void {
    this.#left.delete(space);
  }

  clear(): void {
    this.#left.clear();
  }

  /**
   * `announce` does so from `first` on, as far as it can (`all`: to the end), and answers the first page that it did not come to; `first`: nothing more
   * for now.
   */
  advance(announce: (space: Space, first: number, last: number, all: boolean) => number): void {
    for (const [space, left] of this.#left) {
      const reached = announce(space, left.first, left.last, left.parts >= this.#parts);
      if (reached <= left.first) return;
      left.first = reached;
      left.parts++;
      if (reached > left.last) this.#left.delete(space);
    }
  }
}
