import type { Observed } from './observed.ts';
import type { AddressSpace } from './target.ts';

/** Spaces by what identifies them, so that endpoints of equal configuration share one; those that nobody reaches go when they are many. */
export class KnownSpaces<Space extends AddressSpace> {
  readonly #spaces = new Map<string, Space>();
  readonly #observed: Observed;
  readonly #dropped: (space: Space) => void;

  constructor(observed: Observed, dropped: (space: Space) => void = () => {}) {
    this.#observed = observed;
    this.#dropped = dropped;
  }

  /** The space that is known by the key, or a new one. */
  of(key: string, make: () => Space): Space {
    const known = this.#spaces.get(key);
    if (known !== undefined) return known;
    if (this.#spaces.size > 2 * this.#observed.count) this.dropUnused();
    const space = make();
    this.#spaces.set(key, space);
    return space;
  }

  dropUnused(): void {
    for (const [key, space] of this.#spaces) {
      if (this.#observed.reaches(space)) continue;
      this.#spaces.delete(key);
      this.#dropped(space);
    }
  }

  clear(): void {
    this.#spaces.clear();
  }
}
