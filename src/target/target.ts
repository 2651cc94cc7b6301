/** What paths and machines see of a target. A target sees nothing of them but the observer that they hand in. */

/** Closed range of page frame numbers (4 KiB pages). */
export interface PfnRange {
  readonly first: number;
  readonly last: number;
}

/**
 * Receives one coalesced run of an address space: `pages` pages from IOVA page `iova` on reach guest pages `gpa` on with
 * `permission` (src/memory/access.ts). Answers false to end the enumeration.
 */
export type RunVisitor = (iova: number, gpa: number, pages: number, permission: number) => boolean;

/** What the requests of one or more endpoints reach, as the guest means it at this moment. */
export interface AddressSpace {
  /** In the target's own terms, for explanations and errors: `LIOBN 0x80000000`, `domain 3`. */
  readonly name: string;
  /**
   * Who keeps the mappings. `target`: a change can be taken back: after a failed flush the target restores its old state,
   * says `changed` for the same range and flushes again, and so the old state stands on both sides. `guest`: they lie in
   * the guest's own tables, so after a failed flush the hardware has nothing where it could not follow.
   */
  readonly owner: 'target' | 'guest';
  /** lg2 of the smallest page that the guest can map, 12 or more. */
  readonly granuleLg2: number;
  /** Where anything can ever be mapped, ascending and disjoint. */
  readonly apertures: readonly PfnRange[];
  /**
   * Visits what [first, last] means now: runs ascending by `iova`, clipped to the range, neighbours never mergeable.
   * The work is bounded (each space states its bound); returns the first page that was not examined, last + 1 when all was.
   */
  enumerate(first: number, last: number, visit: RunVisitor): number;
}

/**
 * What a target tells whoever backs it with hardware. Within one guest operation a target calls `changed` any number of
 * times, then `flush` once, and only then completes the operation towards the guest.
 */
export interface TargetObserver {
  /**
   * From now on the endpoint's requests reach `space`; null: they are blocked. Carried out at once.
   * Returns 0, or a negative errno: then the endpoint stands where it stood before.
   */
  attach(endpoint: number, space: AddressSpace | null): number;
  /** [first, last] of the space may mean something else than before. Costs nothing but remembering it. */
  changed(space: AddressSpace, first: number, last: number): void;
  /**
   * Makes the hardware agree with all that changed. Returns 0, or a negative errno and then see AddressSpace.owner; what
   * could not be done stays remembered and is tried again by every later flush.
   */
  flush(): number;
}

/** Process address space of a request that carries none. */
export const NO_PASID = -1;

/** An emulated IOMMU. Endpoints are numbers in the target's own terms (PCI requester ID, virtio endpoint, PE). */
export interface Target {
  readonly name: string;
  /** Whom to tell; the disposer takes the observer off again. One observer at most: a second one throws. */
  observe(observer: TargetObserver): () => void;
  /** What the endpoint's requests without PASID reach now; null when they are blocked. */
  spaceOf(endpoint: number): AddressSpace | null;
  /**
   * Translates one access of an emulated device (wish bits: src/memory/access.ts) as the hardware would, faults recorded
   * where the guest looks for them. Returns lg2 of the bytes around the address for which the answer holds (the address
   * stands in `translated`, [lo, hi]), or a negative fault code of the target.
   */
  translate(endpoint: number, pasid: number, hi: number, lo: number, access: number): number;
  readonly translated: Int32Array;
  /** Back to power-on. Endpoints stay known. */
  reset(): void;
  /** Everything that the guest could observe, as plain data that `structuredClone` and JSON both keep. */
  save(): unknown;
  /** @throws TypeError when the state is not one that `save` of this target made. */
  load(state: unknown): void;
}
