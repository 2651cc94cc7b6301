import type { ReachedSpaces } from './observed.ts';
import type { AddressSpace } from './target.ts';

/** The `process` of a space without a first stage. */
export const NO_PROCESS = -1;

/** What an address space is found by: the tags that invalidations name. */
export interface Tagged extends AddressSpace {
  /** Domain ID of VT-d and AMD, GSCID, VMID with its world; a target may have a number for "none". */
  readonly domain: number;
  /** PASID, PSCID, ASID, or NO_PROCESS. */
  readonly process: number;
}

/**
 * The spaces that are reached, by the tags of the guest's invalidations: those that one names are found without a look at the others.
 *
 * @example
 * const tagged = new TaggedSpaces((space) => 'domain' in space);
 * tagged.entered({ name: 'one of domain 7', domain: 7, process: NO_PROCESS });
 * tagged.of(7, NO_PROCESS).size; // 1
 * tagged.of(8, NO_PROCESS).size; // 0
 */
export class TaggedSpaces<T extends Tagged> implements ReachedSpaces {
  readonly #isTagged: (space: AddressSpace) => space is T;
  readonly #all = new Set<T>();
  readonly #byDomain = new Map<number, Set<T>>();
  readonly #byTag = new Map<number, Map<number, Set<T>>>();
  /** What is found where there is nothing: invalidations of such are many, and allocate nothing. */
  readonly #none: ReadonlySet<T> = new Set();

  constructor(isTagged: (space: AddressSpace) => space is T) {
    this.#isTagged = isTagged;
  }

  entered(space: AddressSpace): void {
    if (!this.#isTagged(space)) return;
    this.#all.add(space);
    this.#byDomain.set(space.domain, (this.#byDomain.get(space.domain) ?? new Set<T>()).add(space));
    const domain = this.#byTag.get(space.domain) ?? new Map<number, Set<T>>();
    this.#byTag.set(space.domain, domain.set(space.process, (domain.get(space.process) ?? new Set<T>()).add(space)));
  }

  left(space: AddressSpace): void {
    if (!this.#isTagged(space) || !this.#all.delete(space)) return;
    const domain = this.#byTag.get(space.domain)!;
    const spaces = domain.get(space.process)!;
    spaces.delete(space);
    if (spaces.size === 0) domain.delete(space.process);
    if (domain.size === 0) this.#byTag.delete(space.domain);
    const all = this.#byDomain.get(space.domain)!;
    all.delete(space);
    if (all.size === 0) this.#byDomain.delete(space.domain);
  }

  get all(): ReadonlySet<T> {
    return this.#all;
  }

  /** Those of one process of a domain; NO_PROCESS: those without a first stage. */
  of(domain: number, process: number): ReadonlySet<T> {
    return this.#byTag.get(domain)?.get(process) ?? this.#none;
  }

  ofDomain(domain: number): ReadonlySet<T> {
    return this.#byDomain.get(domain) ?? this.#none;
  }
}
