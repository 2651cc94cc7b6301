/** What paths and machines see of a target. A target sees nothing of them but the observer that they hand in. */

/** Closed range of page frame numbers (4 KiB pages). */
export interface PfnRange {
  readonly first: number;
  readonly last: number;
}

/**
 * Receives a piece of a table, within one page of guest memory: the `bytes` bytes from guest-physical byte `address` on hold `entries` entries,
 * which translate [first, last] of the space in equal parts, ascending. One entry: any of the bytes can change all of the range.
 */
export type TableReader = (address: number, bytes: number, entries: number, first: number, last: number) => void;

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
  /**
   * Who says which endpoints reach it, where that is not the owner of its mappings: guest RAM as it is, where tables of the guest's lead to it.
   * `guest`: an endpoint that cannot leave it for what the guest wants reaches nothing, since nobody can tell the guest that it stayed.
   */
  readonly attachedBy?: 'guest';
  /**
   * Whether the guest announces a mapping that becomes valid (sPAPR, virtio-iommu, zPCI; VT-d with caching mode, AMD-Vi with NpCache).
   * Where it does not (RISC-V, SMMUv3, every first stage: their architectures need no invalidation then, and stock Linux sends none), what
   * follows `changed` alone is short of mappings: such a space needs the nested path, watched tables, or filling on demand.
   */
  readonly announced: boolean;
  /** `enumerate` can say which tables in guest memory it reads. Left out: it cannot, or there are none. */
  readonly tellsTables?: boolean;
  /** lg2 of the smallest page that the guest can map, 12 or more. */
  readonly granuleLg2: number;
  /** Where anything can ever be mapped, ascending and disjoint. */
  readonly apertures: readonly PfnRange[];
  /**
   * Visits what [first, last] means now: runs ascending by `iova`, clipped to the range, neighbours never mergeable.
   * The work is bounded (each space states its bound); returns the first page that was not examined, last + 1 when all was.
   * `tables` (with `tellsTables`) hears of the pieces of tables in guest memory before they are read: a later store to one can only change what
   * the piece translates.
   */
  enumerate(first: number, last: number, visit: RunVisitor, tables?: TableReader): number;
}

/** Tables in guest memory that say which PASIDs an endpoint has, or whether it has a context at all, and whose guest does not announce a new one. */
export interface PasidDirectory {
  /** In the target's own terms. */
  readonly name: string;
  /** What requests reach that carry no PASID depends on it as well. Left out: it does not. */
  readonly ofEndpoint?: boolean;
  /** Tells the pieces that it is read from, before they are, with PASIDs for pages. The work is bounded. */
  read(tables: TableReader): void;
  /** A store to a piece: PASIDs [first, last] may reach something else now. The observer is told by `attach`. */
  stored(first: number, last: number): void;
}

/**
 * What the requests of an endpoint, or of one PASID of it, go through, in terms that hardware of the target's own kind takes over as
 * they stand: a value, compared by `sameStage`. Nested paths hand it to the hardware and pass the guest's own invalidations on.
 */
export type FirstStage =
  /** Every request is refused. */
  | { readonly kind: 'abort' }
  /** No first stage: requests reach guest-physical addresses. */
  | { readonly kind: 'bypass' }
  /** VT-d D51397, 9.6: a scalable-mode PASID entry whose PGTT is first-stage. `root`: FSPTPTR, a guest-physical byte address. */
  | {
      readonly kind: 'vtd';
      readonly root: bigint;
      readonly addressWidth: 48 | 57;
      readonly supervisor: boolean;
      readonly extendedAccess: boolean;
      readonly writeProtect: boolean;
    }
  /** Arm IHI 0070, 5.2: double words 0 and 1 of a stream table entry; its CD table, and so every PASID, is the hardware's to walk. */
  | { readonly kind: 'smmuv3'; readonly ste: readonly [bigint, bigint] }
  /** AMD 48882, 2.2.2.1: a device table entry. */
  | { readonly kind: 'amd'; readonly dte: readonly [bigint, bigint, bigint, bigint] };

/** Whether two stages are one value: changing from one to the other needs no host call. */
export function sameStage(a: FirstStage | null, b: FirstStage | null): boolean {
  if (a === null || b === null || a.kind !== b.kind) return a === b;
  if (a.kind === 'smmuv3' && b.kind === 'smmuv3') return a.ste[0] === b.ste[0] && a.ste[1] === b.ste[1];
  if (a.kind === 'amd' && b.kind === 'amd') return a.dte.every((word, i) => word === b.dte[i]);
  if (a.kind === 'vtd' && b.kind === 'vtd')
    return (
      a.root === b.root &&
      a.addressWidth === b.addressWidth &&
      a.supervisor === b.supervisor &&
      a.extendedAccess === b.extendedAccess &&
      a.writeProtect === b.writeProtect
    );
  return true;
}

/** Whose first stage a target's guests write: `FirstStage.kind` of all that translate. */
export type StageFormat = Exclude<FirstStage['kind'], 'abort' | 'bypass'>;

/**
 * What hardware that walks a guest's first stage has to say of one of its endpoints, for the guest to hear in the terms of its IOMMU. Numbers
 * are the target's: whoever reads the host's queues has put the endpoint, and nothing else of the host's, in their place.
 */
export type HardwareEvent =
  /** A record in the target's own format (SMMUv3: Arm IHI 0070, 7.3; VT-d: D51397, 11.4.7.6), 32-bit words, lowest first. */
  | { readonly kind: 'record'; readonly words: Int32Array }
  /** Records were lost before the next one: nobody read them in time. */
  | { readonly kind: 'lost' }
  /** A device wants a page (PCIe PRI, a stall) and waits: what becomes of the group of its last request is told by `TargetObserver.answered`. */
  | {
      readonly kind: 'page-request';
      readonly endpoint: number;
      /** NO_PASID: none. */
      readonly pasid: number;
      readonly group: number;
      readonly last: boolean;
      /** Wish bits: src/memory/access.ts. */
      readonly access: number;
      readonly address: bigint;
    };

/** What became of the page requests of a group (PCIe 10.4.2.1): the pages are there; they will never be; nobody can say. */
export type PageAnswer = 'success' | 'invalid' | 'failure';

/**
 * What a target tells whoever backs it with hardware. Within one guest operation a target calls `changed` any number of
 * times, then `flush` once, and only then completes the operation towards the guest.
 */
export interface TargetObserver {
  /**
   * From now on the endpoint's requests (`pasid`: those that carry this PASID; left out: those that carry none) reach `space`; null:
   * they are blocked. Also said when the space is the one that it was and `Target.stageOf` says another value. Carried out at once.
   * Returns 0, or a negative errno: then the endpoint stands where it stood before, and a PASID is blocked.
   */
  attach(endpoint: number, space: AddressSpace | null, pasid?: number): number;
  /** What the endpoint reached is no more, and nothing has taken its place: its requests are blocked come what may. Left out: `attach` does that. */
  block?(endpoint: number): void;
  /**
   * [first, last] of the space may mean something else than before: all that the leaves had mapped which the guest's invalidation names, not
   * only the pages that it names. Costs nothing but remembering it.
   */
  changed(space: AddressSpace, first: number, last: number): void;
  /**
   * The guest's own invalidation of a first stage, as it wrote it, for hardware of the target's kind; ranges of spaces are said by `changed` as
   * well. `words`: the command in 32-bit words, lowest first; valid during the call only. `endpoint`: whom it names, -1 where it names nobody.
   */
  invalidated?(words: Int32Array, endpoint: number): void;
  /** Which PASIDs the endpoint has, or whether it reaches anything, is said by other tables from now on; null: by none that can be read, or the guest tells of each. */
  directory?(endpoint: number, directory: PasidDirectory | null): void;
  /** The guest's answer to a group of page requests, or the target's own where the guest cannot hear of them. Carried out at once. */
  answered?(endpoint: number, pasid: number, group: number, answer: PageAnswer): void;
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
  /** Guest memory that it works on: a machine around it has the same. Left out: it does not say. */
  readonly memory?: object | undefined;
  /** Whom to tell; the disposer takes the observer off again. One observer at most: a second one throws. */
  observe(observer: TargetObserver): () => void;
  /** Whether the target has such an endpoint. Left out: it takes any. */
  knows?(endpoint: number): boolean;
  /**
   * Where a guest may map as it likes, without having asked for a window there; with `confine`. Left out: guests ask, or keep tables that may reach
   * further than hardware does.
   */
  readonly offered?: readonly PfnRange[];
  /**
   * Of what is offered, the hardware behind the endpoint maps only `reachable` (ascending): from now on the guest may not map elsewhere, and is told
   * in its architecture's terms. The disposer takes it back.
   * @throws RangeError when that cannot be said
   */
  confine?(endpoint: number, reachable: readonly PfnRange[]): () => void;
  /** What the endpoint's requests (with this PASID; left out: without one) reach now; null when they are blocked. */
  spaceOf(endpoint: number, pasid?: number): AddressSpace | null;
  /** PASIDs of the endpoint that the observer has been told of, and that reach something. Left out: there are none. */
  pasidsOf?(endpoint: number): readonly number[];
  /** What the observer was told by `directory`. */
  directoryOf?(endpoint: number): PasidDirectory | null;
  /**
   * The same as a value for hardware that nests; null: nothing that hardware could take over. Left out by targets whose guests have no
   * tables of their own.
   */
  stageOf?(endpoint: number, pasid?: number): FirstStage | null;
  /** What the observer refused to attach is asked for again. Left out: nothing of it is kept. */
  retry?(): void;
  /** Of the stages that `stageOf` answers; there where it is. */
  readonly stageFormat?: StageFormat;
  /**
   * Hardware that has a stage of the target's speaks: it becomes the guest's record, or its page request, as if the target had walked the
   * tables itself, and interrupts follow. What comes at a wrong time (queues off or full, an unknown endpoint) goes the way the
   * specification says; a page request is answered in any case, at once or by the guest.
   */
  report?(event: HardwareEvent): void;
  /**
   * Translates one access of an emulated device (wish bits: src/memory/access.ts) as the hardware would, faults recorded
   * where the guest looks for them. Returns lg2 of the bytes around the address for which the answer holds (the address
   * stands in `translated`, its halves at LO and HI), or a fault code of the target's (src/target/fault-codes.ts).
   */
  translate(endpoint: number, pasid: number, hi: number, lo: number, access: number): number;
  readonly translated: Int32Array;
  /** Accesses so far that the IOTLB answered, and those that it did not have, so that tables were walked; others ask none. Left out: there is no IOTLB. */
  readonly iotlbHits?: number;
  readonly iotlbMisses?: number;
  /** Back to power-on. Endpoints stay known. */
  reset(): void;
  /** Everything that the guest could observe, as plain data that `structuredClone` and JSON both keep. */
  save(): unknown;
  /** @throws TypeError when the state is not one that `save` of this target made. */
  load(state: unknown): void;
}
