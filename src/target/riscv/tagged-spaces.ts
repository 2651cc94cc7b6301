import type { ReachedSpaces } from '../observed.ts';
import type { AddressSpace } from '../target.ts';

/** What an address space is found by: the tags that invalidations name. */
export interface Tagged extends AddressSpace {
  /** -1: no second stage. */
  readonly gscid: number;
  readonly pscid: number;
}

/** The spaces that are reached, by the tags of the guest's invalidations: one is found without a look at the others. */
export class TaggedSpaces<T extends Tagged> implements ReachedSpaces {
  readonly #isTagged: (space: AddressSpace) => space is T;
  readonly #all = new Set<T>();
  readonly #byTag = new Map<number, Map<number, Set<T>>>();

  constructor(isTagged: (space: AddressSpace) => space is T) {
    this.#isTagged = isTagged;
  }

  entered(space: AddressSpace): void {
    if (!this.#isTagged(space)) return;
    this.#all.add(space);
    const guest = this.#byTag.get(space.gscid) ?? new Map<number, Set<T>>();
    this.#byTag.set(space.gscid, guest.set(space.pscid, (guest.get(space.pscid) ?? new Set<T>()).add(space)));
  }

  left(space: AddressSpace): void {
    if (!this.#isTagged(space)) return;
    this.#all.delete(space);
    const guest = this.#byTag.get(space.gscid)!;
    const spaces = guest.get(space.pscid)!;
    spaces.delete(space);
    if (spaces.size === 0) guest.delete(space.pscid);
    if (guest.size === 0) this.#byTag.delete(space.gscid);
  }

  get all(): Iterable<T> {
    return this.#all;
  }

  /** Those of a GSCID, and of one PSCID of it unless that is negative. */
  *tagged(gscid: number, pscid: number): Iterable<T> {
    const guest = this.#byTag.get(gscid);
    if (guest === undefined) return;
    if (pscid >= 0) yield* guest.get(pscid) ?? [];
    else for (const spaces of guest.values()) yield* spaces;
  }
}
