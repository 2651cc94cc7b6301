import { type AddressSpace, type FirstStage, NO_PASID, type PasidDirectory, sameStage, type TargetObserver } from './target.ts';

/** PASIDs of one endpoint that an observer is told of at most; requests with any other are blocked for hardware. */
const PASIDS_PER_ENDPOINT = 1024;

/** What a target's guest wants of an endpoint now. */
export interface Says {
  wantedSpaceOf(endpoint: number, pasid: number): AddressSpace | null;
  /** PASIDs of the endpoint that its tables have now, a bounded number. Left out: a guest tells of each. */
  listPasids?(endpoint: number): readonly number[];
  /** Of which the same object is one value. Left out: there is none. */
  directoryOf?(endpoint: number): PasidDirectory | null;
  /** Left out: no hardware walks the tables of this target's guests. */
  wantedStageOf?(endpoint: number, pasid: number): FirstStage | null;
}

/** Hears of spaces that some endpoint reaches from now on, and of those that none does any more. */
export interface ReachedSpaces {
  entered(space: AddressSpace): void;
  left(space: AddressSpace): void;
}

/** What an observer was told that the requests of an endpoint, or of one PASID of it, reach. */
interface Attachment {
  readonly space: AddressSpace | null;
  readonly stage: FirstStage | null;
}

/**
 * The endpoints of a target whose guests own their tables, and what its observer has been told of them: of their spaces when those are
 * other ones than before, of changes, and again of what it refused.
 */
export class Observed {
  readonly #who: string;
  readonly #says: Says;
  readonly #reached: ReachedSpaces | null;
  /** By endpoint, then by PASID; NO_PASID is among them once the observer has been told. */
  readonly #endpoints = new Map<number, Map<number, Attachment>>();
  /** Endpoints and PASIDs that the observer refused to attach. */
  readonly #owed = new Map<number, Set<number>>();
  /** By endpoint. */
  readonly #directories = new Map<number, PasidDirectory>();
  /** Spaces that are reached, and by how many. */
  readonly #uses = new Map<AddressSpace, number>();
  /** What a refused endpoint stands at. */
  readonly #blocked: Attachment;
  #observer: TargetObserver | null = null;
  /** PASIDs of all endpoints that the observer has been told of. */
  #processes = 0;
  /** A change was announced since the last flush that went well. */
  #changed = false;

  /** `who`: the target's class, for messages. */
  constructor(who: string, says: Says, reached: ReachedSpaces | null = null) {
    this.#who = who;
    this.#says = says;
    this.#reached = reached;
    this.#blocked = { space: null, stage: says.wantedStageOf === undefined ? null : { kind: 'abort' } };
  }

  get observer(): TargetObserver | null {
    return this.#observer;
  }

  /** Endpoints, and their PASIDs beside the requests that carry none. */
  get count(): number {
    return this.#endpoints.size + this.#processes;
  }

  get endpoints(): Iterable<number> {
    return this.#endpoints.keys();
  }

  reaches(space: AddressSpace): boolean {
    return this.#uses.has(space);
  }

  knows(endpoint: number): boolean {
    return this.#endpoints.has(endpoint);
  }

  /** The observer did not take what the guest wants: blocked, it stands at nothing until that is asked for again. */
  isRefused(endpoint: number, pasid: number): boolean {
    return this.#owed.get(endpoint)?.has(pasid) ?? false;
  }

  /** PASIDs of the endpoint that the observer has been told of. */
  pasidsOf(endpoint: number): readonly number[] {
    return [...(this.#endpoints.get(endpoint)?.keys() ?? [])].filter((pasid) => pasid !== NO_PASID);
  }

  add(endpoint: number): void {
    if (this.#endpoints.has(endpoint)) return;
    this.#endpoints.set(endpoint, new Map());
    this.refresh(endpoint);
  }

  remove(endpoint: number): void {
    const pasids = this.#endpoints.get(endpoint);
    if (pasids === undefined) return;
    // Unknown first: whoever is told asks for the stage as well.
    this.#endpoints.delete(endpoint);
    this.#owed.delete(endpoint);
    for (const [pasid, { space, stage }] of [...pasids]) {
      const isBlocked = space === null && sameStage(stage, this.#blocked.stage);
      if (!isBlocked || pasid !== NO_PASID) this.#tell(endpoint, pasid, null);
      this.#take(pasids, pasid);
    }
    this.#tellDirectory(endpoint, null);
  }

  /** Target.observe; `forget` drops what the target keeps for an observer alone. */
  observe(observer: TargetObserver, forget: () => void): () => void {
    if (this.#observer !== null) throw new TypeError(`${this.#who}: it has an observer already`);
    this.#observer = observer;
    this.refreshAll();
    let observing = true;
    return () => {
      if (!observing) return;
      observing = false;
      this.#observer = null;
      for (const pasids of this.#endpoints.values()) for (const pasid of [...pasids.keys()]) this.#take(pasids, pasid);
      this.#owed.clear();
      this.#directories.clear();
      forget();
    };
  }

  /** The endpoint's configuration may be another one: the observer is told where what it reaches is. */
  refresh(endpoint: number): void {
    const pasids = this.#endpoints.get(endpoint);
    if (this.#observer === null || pasids === undefined) return;
    this.#refreshPasid(endpoint, NO_PASID);
    const processes = new Set([...pasids.keys(), ...(this.#says.listPasids?.(endpoint) ?? [])]);
    for (const pasid of processes) if (pasid !== NO_PASID) this.#refreshPasid(endpoint, pasid);
    this.#tellDirectory(endpoint, this.#says.directoryOf?.(endpoint) ?? null);
  }

  directoryOf(endpoint: number): PasidDirectory | null {
    return this.#directories.get(endpoint) ?? null;
  }

  #tellDirectory(endpoint: number, directory: PasidDirectory | null): void {
    if (directory === this.directoryOf(endpoint)) return;
    if (directory === null) this.#directories.delete(endpoint);
    else this.#directories.set(endpoint, directory);
    this.#observer?.directory?.(endpoint, directory);
  }

  /** The same of one PASID, which may be one that was not there before, of these endpoints, else of all. */
  refreshProcess(pasid: number, endpoints: Iterable<number> = this.#endpoints.keys()): void {
    for (const endpoint of endpoints) {
      this.#refreshPasid(endpoint, NO_PASID);
      this.#refreshPasid(endpoint, pasid);
    }
  }

  /** The same of PASIDs [first, last] of one endpoint: those that the observer was told of, and those that there are now. */
  refreshProcesses(endpoint: number, first: number, last: number): void {
    this.#refreshPasid(endpoint, NO_PASID);
    for (const pasid of new Set([...this.pasidsOf(endpoint), ...(this.#says.listPasids?.(endpoint) ?? [])]))
      if (pasid >= first && pasid <= last) this.#refreshPasid(endpoint, pasid);
  }

  refreshRange(first: number, last: number): void {
    for (const endpoint of this.#endpoints.keys()) if (endpoint >= first && endpoint <= last) this.refresh(endpoint);
  }

  refreshAll(): void {
    for (const endpoint of this.#endpoints.keys()) this.refresh(endpoint);
  }

  /** Input pages [first, last] of a space mean something else, or may. */
  changed(space: AddressSpace, first: number, last: number): void {
    this.#observer?.changed(space, first, last);
    this.#changed = true;
  }

  /** The guest's own words, for hardware that walks the guest's tables. */
  invalidated(words: Int32Array, endpoint: number): void {
    if (this.#observer?.invalidated === undefined) return;
    this.#observer.invalidated(words, endpoint);
    this.#changed = true;
  }

  /** What the observer refused to attach is asked for again. */
  retry(): void {
    for (const [endpoint, pasids] of this.#owed) for (const pasid of [...pasids]) this.#refreshPasid(endpoint, pasid);
  }

  /**
   * Before the guest can see that its commands are done. The mappings are the guest's: what the host refuses is not there for the hardware,
   * whose requests fault; the next flush tries again.
   */
  flush(): void {
    if (this.#changed && this.#observer !== null) this.#changed = this.#observer.flush() < 0;
  }

  #refreshPasid(endpoint: number, pasid: number): void {
    const pasids = this.#endpoints.get(endpoint);
    if (this.#observer === null || pasids === undefined) return;
    const space = this.#says.wantedSpaceOf(endpoint, pasid);
    const before = pasids.get(pasid);
    this.#owed.get(endpoint)?.delete(pasid);
    if (pasid !== NO_PASID && space === null) {
      if (before !== undefined) this.#tell(endpoint, pasid, null);
      this.#take(pasids, pasid);
      return;
    }
    if (before === undefined && pasid !== NO_PASID && pasids.size > PASIDS_PER_ENDPOINT) return;
    const stage = this.#says.wantedStageOf?.(endpoint, pasid) ?? null;
    if (before !== undefined && before.space === space && sameStage(before.stage, stage)) return;
    if (this.#tell(endpoint, pasid, space) >= 0) {
      this.#put(pasids, pasid, { space, stage });
      return;
    }
    // Refused: it must not go on reaching what the guest took away. Blocked, it waits for the next flush.
    const owed = this.#owed.get(endpoint) ?? new Set();
    this.#owed.set(endpoint, owed.add(pasid));
    if (pasid !== NO_PASID || this.#tell(endpoint, pasid, null) >= 0) this.#put(pasids, pasid, this.#blocked);
  }

  #tell(endpoint: number, pasid: number, space: AddressSpace | null): number {
    const observer = this.#observer;
    if (observer === null) return 0;
    return pasid === NO_PASID ? observer.attach(endpoint, space) : observer.attach(endpoint, space, pasid);
  }

  #put(pasids: Map<number, Attachment>, pasid: number, attachment: Attachment): void {
    const { space } = attachment;
    const before = pasids.get(pasid)?.space ?? null;
    if (pasid !== NO_PASID && !pasids.has(pasid)) this.#processes++;
    pasids.set(pasid, attachment);
    if (space === before) return;
    if (space !== null) {
      const uses = this.#uses.get(space) ?? 0;
      this.#uses.set(space, uses + 1);
      if (uses === 0) this.#reached?.entered(space);
    }
    if (before !== null) this.#leave(before);
  }

  #take(pasids: Map<number, Attachment>, pasid: number): void {
    const space = pasids.get(pasid)?.space ?? null;
    if (pasids.delete(pasid) && pasid !== NO_PASID) this.#processes--;
    if (space !== null) this.#leave(space);
  }

  #leave(space: AddressSpace): void {
    const uses = this.#uses.get(space)! - 1;
    if (uses > 0) {
      this.#uses.set(space, uses);
      return;
    }
    this.#uses.delete(space);
    this.#reached?.left(space);
  }
}
