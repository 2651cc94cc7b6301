import type { AddressSpace } from '../target.ts';

/** What an address space is found by: the tags that invalidations name. */
export interface Tagged extends AddressSpace {
  /** -1: no second stage. */
  readonly gscid: number;
  readonly pscid: number;
}

/** Which space each endpoint reaches, and the spaces that are reached by the tags of the guest's invalidations: one is found without a look at the others. */
export class AttachedSpaces<T extends Tagged> {
  readonly #isTagged: (space: AddressSpace) => space is T;
  readonly #byEndpoint = new Map<number, AddressSpace | null>();
  readonly #endpoints = new Map<T, number>();
  readonly #byTag = new Map<number, Map<number, Set<T>>>();

  constructor(isTagged: (space: AddressSpace) => space is T) {
    this.#isTagged = isTagged;
  }

  get(endpoint: number): AddressSpace | null | undefined {
    return this.#byEndpoint.get(endpoint);
  }

  set(endpoint: number, space: AddressSpace | null): void {
    this.delete(endpoint);
    this.#byEndpoint.set(endpoint, space);
    if (space === null || !this.#isTagged(space)) return;
    const endpoints = this.#endpoints.get(space) ?? 0;
    this.#endpoints.set(space, endpoints + 1);
    if (endpoints > 0) return;
    const guest = this.#byTag.get(space.gscid) ?? new Map<number, Set<T>>();
    this.#byTag.set(space.gscid, guest.set(space.pscid, (guest.get(space.pscid) ?? new Set<T>()).add(space)));
  }

  delete(endpoint: number): void {
    const space = this.#byEndpoint.get(endpoint);
    this.#byEndpoint.delete(endpoint);
    if (space === null || space === undefined || !this.#isTagged(space)) return;
    const endpoints = this.#endpoints.get(space)! - 1;
    if (endpoints > 0) this.#endpoints.set(space, endpoints);
    else this.#drop(space);
  }

  clear(): void {
    this.#byEndpoint.clear();
    this.#endpoints.clear();
    this.#byTag.clear();
  }

  reaches(space: T): boolean {
    return this.#endpoints.has(space);
  }

  /** Spaces that some endpoint reaches. */
  get all(): Iterable<T> {
    return this.#endpoints.keys();
  }

  /** Those of a GSCID, and of one PSCID of it unless that is negative. */
  *tagged(gscid: number, pscid: number): Iterable<T> {
    const guest = this.#byTag.get(gscid);
    if (guest === undefined) return;
    if (pscid >= 0) yield* guest.get(pscid) ?? [];
    else for (const spaces of guest.values()) yield* spaces;
  }

  #drop(space: T): void {
    this.#endpoints.delete(space);
    const guest = this.#byTag.get(space.gscid)!;
    const spaces = guest.get(space.pscid)!;
    spaces.delete(space);
    if (spaces.size === 0) guest.delete(space.pscid);
    if (guest.size === 0) this.#byTag.delete(space.gscid);
  }
}
