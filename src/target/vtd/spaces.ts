import { PFN_LIMIT } from '../../memory/address.ts';
import { CountedMemory } from '../../pagetable/two-stage.ts';
import { IdentitySpace } from '../identity-space.ts';
import { type AddressSpace, type FirstStage, NO_PASID, sameStage, type TargetObserver } from '../target.ts';
import type { Registers } from './control/registers.ts';
import { ResponseCode } from './spec/page-requests.ts';
import type { PageGroupResponse, VtdSurroundings } from './surroundings.ts';
import { ENTRY_BUDGET, TableSpace } from './table-space.ts';
import type { Contexts } from './translation/contexts.ts';
import type { StageBuilder, Stages } from './translation/stages.ts';

/** Announced pages, each range counted up to ENTRY_BUDGET, after which a flush does not wait for the end of the descriptors. */
const PENDING_LIMIT = 2 * ENTRY_BUDGET;
/** PASIDs of one endpoint that an observer is told of at most; requests with any other are blocked for hardware. */
const PASIDS_PER_ENDPOINT = 1024;

export interface SpaceParts {
  readonly memory: VtdSurroundings['memory'];
  readonly registers: Registers;
  readonly contexts: Contexts;
  readonly builder: StageBuilder;
  readonly cachingMode: boolean;
  readonly respond: VtdSurroundings['respond'];
}

/** What an observer was told that the requests of an endpoint, or of one PASID of it, reach. */
interface Attachment {
  readonly space: AddressSpace | null;
  readonly stage: FirstStage | null;
}
const BLOCKED: Attachment = { space: null, stage: { kind: 'abort' } };

/** Address spaces of the endpoints that somebody backs with hardware, and what the observer has been told of them. */
export class Spaces {
  readonly #parts: SpaceParts;
  readonly #identity: AddressSpace;
  readonly #spaces = new Map<string, TableSpace>();
  /** By endpoint, then by PASID, NO_PASID always among them. */
  readonly #attached = new Map<number, Map<number, Attachment>>();
  /** Endpoints and PASIDs that the observer refused to attach. */
  readonly #owed = new Map<number, Set<number>>();
  #observer: TargetObserver | null = null;
  /** A change was announced since the last flush. */
  #announced = false;
  /** See PENDING_LIMIT. */
  #pending = 0;
  /** Where spaces read tables, and what they had read when the register access under way began. */
  readonly #tables: CountedMemory;
  #readBefore = 0;

  constructor(parts: SpaceParts) {
    this.#parts = parts;
    this.#tables = new CountedMemory(parts.memory);
    this.#identity = new IdentitySpace({ regions: parts.memory.regions ?? [] });
  }

  get isObserved(): boolean {
    return this.#observer !== null;
  }

  /** A register access begins, with a budget of its own. */
  beginAccess(): void {
    this.#readBefore = this.#tables.loads;
  }

  /** The access has made the observer read as much as one enumeration may: what is left of its work is the next one's. */
  get isSpent(): boolean {
    return this.#tables.loads - this.#readBefore >= ENTRY_BUDGET;
  }

  add(endpoint: number): void {
    if (this.#attached.has(endpoint)) return;
    this.#attached.set(endpoint, new Map());
    this.refresh(endpoint);
  }

  knows(endpoint: number): boolean {
    return this.#attached.has(endpoint);
  }

  remove(endpoint: number): void {
    for (const [pasid, { space }] of this.#attached.get(endpoint) ?? []) if (space !== null) this.#tell(endpoint, pasid, null);
    this.#attached.delete(endpoint);
    this.#owed.delete(endpoint);
  }

  observe(observer: TargetObserver): () => void {
    if (this.#observer !== null) throw new TypeError('VtdIommu: it has an observer already');
    this.#observer = observer;
    this.refreshAll();
    return () => {
      if (this.#observer !== observer) return;
      this.#observer = null;
      for (const pasids of this.#attached.values()) pasids.clear();
      this.#owed.clear();
      this.#spaces.clear();
    };
  }

  /** What the requests of an endpoint reach; null: they are blocked. */
  spaceOf(endpoint: number, pasid = NO_PASID): AddressSpace | null {
    const { registers, contexts } = this.#parts;
    if (!this.#attached.has(endpoint)) return null;
    if (!registers.translating) return this.#identity;
    const stages = contexts.find(endpoint, pasid);
    if (stages === null) return null;
    return stages.first === null && stages.second === null ? this.#identity : this.#spaceFor(stages, pasid !== NO_PASID);
  }

  #spaceFor(stages: Stages, withPasid: boolean): TableSpace {
    const key = `${stages.key}${withPasid}`;
    const known = this.#spaces.get(key);
    if (known !== undefined) return known;
    if (this.#spaces.size > 2 * this.#attachments()) this.#dropUnused();
    const { cachingMode, builder } = this.#parts;
    const space = new TableSpace(stages, withPasid, cachingMode, builder, this.#tables);
    this.#spaces.set(key, space);
    return space;
  }

  /** The same as a value (FirstStage); null: a second stage of the guest's own, which hardware cannot take over as a first. */
  stageOf(endpoint: number, pasid = NO_PASID): FirstStage | null {
    const { registers, contexts } = this.#parts;
    if (!this.#attached.has(endpoint)) return { kind: 'abort' };
    if (!registers.translating) return { kind: 'bypass' };
    const stages = contexts.find(endpoint, pasid);
    if (stages === null) return { kind: 'abort' };
    const { first, second, supervisor } = stages;
    if (second !== null) return null;
    if (first === null) return { kind: 'bypass' };
    return {
      kind: 'vtd',
      root: BigInt(first.root) << 12n,
      addressWidth: first.levels === 5 ? 57 : 48,
      supervisor,
      extendedAccess: first.extendedAccessed,
      writeProtect: first.writeProtect,
    };
  }

  /** The endpoint's entries may be other ones: the observer is told where what it reaches is. */
  refresh(endpoint: number): void {
    const pasids = this.#attached.get(endpoint);
    if (this.#observer === null || pasids === undefined) return;
    this.#refreshPasid(endpoint, NO_PASID);
    for (const pasid of [...pasids.keys()]) if (pasid !== NO_PASID) this.#refreshPasid(endpoint, pasid);
  }

  /** The same of one PASID of every endpoint, which may be one that was not there before. */
  refreshProcess(process: number): void {
    for (const endpoint of this.#attached.keys()) {
      this.#refreshPasid(endpoint, NO_PASID);
      this.#refreshPasid(endpoint, process);
    }
  }

  refreshAll(): void {
    for (const endpoint of this.#attached.keys()) this.refresh(endpoint);
    this.#dropUnused();
  }

  #refreshPasid(endpoint: number, pasid: number): void {
    const pasids = this.#attached.get(endpoint);
    if (this.#observer === null || pasids === undefined) return;
    const space = this.spaceOf(endpoint, pasid);
    const known = pasids.get(pasid);
    this.#owed.get(endpoint)?.delete(pasid);
    if (known === undefined && pasid !== NO_PASID && (space === null || pasids.size > PASIDS_PER_ENDPOINT)) return;
    const stage = this.stageOf(endpoint, pasid);
    const before = known ?? BLOCKED;
    if (known !== undefined && before.space === space && sameStage(before.stage, stage)) return;
    if (this.#tell(endpoint, pasid, space) >= 0) {
      if (space === null && pasid !== NO_PASID) pasids.delete(pasid);
      else pasids.set(pasid, { space, stage });
      return;
    }
    // Refused: it must not go on reaching what the guest took away. Blocked, it waits for the next flush.
    const owed = this.#owed.get(endpoint) ?? new Set();
    this.#owed.set(endpoint, owed.add(pasid));
    if (this.#tell(endpoint, pasid, null) >= 0) pasids.set(pasid, BLOCKED);
  }

  #tell(endpoint: number, pasid: number, space: AddressSpace | null): number {
    const observer = this.#observer;
    if (observer === null) return 0;
    return pasid === NO_PASID ? observer.attach(endpoint, space) : observer.attach(endpoint, space, pasid);
  }

  #attachments(): number {
    let count = 0;
    for (const pasids of this.#attached.values()) count += Math.max(1, pasids.size);
    return count;
  }

  #dropUnused(): void {
    const used = new Set<AddressSpace | null>();
    for (const pasids of this.#attached.values()) for (const { space } of pasids.values()) used.add(space);
    for (const [key, space] of this.#spaces) if (!used.has(space)) this.#spaces.delete(key);
  }

  /** Everything of a domain, -1: of all, may mean something else. */
  changedDomain(domain: number): void {
    this.#announce(0, PFN_LIMIT - 1, (stages) => domain < 0 || stages.domain === domain);
  }

  /** Input pages [first, last] of a domain's second stage: behind a first stage any page may have changed (table 23). */
  changedSecond(domain: number, first: number, last: number): void {
    this.#announce(first, last, (stages) => stages.domain === domain && stages.first === null);
    this.#announce(0, PFN_LIMIT - 1, (stages) => stages.domain === domain && stages.first !== null);
  }

  /** Everything that a domain's second stage alone translates. */
  changedSecondOnly(domain: number): void {
    this.#announce(0, PFN_LIMIT - 1, (stages) => stages.domain === domain && stages.first === null);
  }

  /** Input pages [first, last] of a PASID's first stage. */
  changedFirst(domain: number, pasid: number, first: number, last: number): void {
    this.#announce(first, last, (stages) => stages.domain === domain && stages.first !== null && stages.pasid === pasid);
  }

  #announce(first: number, last: number, selected: (stages: Stages) => boolean): void {
    const observer = this.#observer;
    if (observer === null) return;
    const told = new Set<AddressSpace>();
    for (const pasids of this.#attached.values()) {
      for (const { space } of pasids.values()) {
        if (!(space instanceof TableSpace) || told.has(space) || !selected(space.stages)) continue;
        told.add(space);
        const range = space.widened(first, last);
        observer.changed(space, range.first, range.last);
        this.#announced = true;
        this.#pending += Math.min(range.last - range.first + 1, ENTRY_BUDGET);
      }
    }
    if (this.#pending >= PENDING_LIMIT) this.flush();
  }

  /** The guest's own words, for hardware that walks the guest's first stage. */
  passOn(words: Int32Array, endpoint: number): void {
    this.#observer?.invalidated?.(words, endpoint);
  }

  /** What becomes of a device's page requests: the emulated one is told by the machine, a passed-through one by the observer. */
  answer(response: PageGroupResponse): void {
    const { device, pasid, group, code } = response;
    const answer = code === ResponseCode.success ? 'success' : code === ResponseCode.invalidRequest ? 'invalid' : 'failure';
    this.#observer?.answered?.(device, pasid ?? NO_PASID, group, answer);
    this.#parts.respond?.(response);
  }

  /** Before the guest can see how far its descriptors are. A retry of what failed waits for the next access when this one is spent. */
  endAccess(): void {
    if (this.#pending > 0 || !this.isSpent) this.flush();
  }

  /** Before the guest can see that its descriptors are done. */
  flush(): void {
    this.#pending = 0;
    for (const [endpoint, pasids] of this.#owed) for (const pasid of [...pasids]) this.#refreshPasid(endpoint, pasid);
    if (!this.#announced || this.#observer === null) return;
    // The mappings are the guest's: what the host refuses is not there for the hardware, whose requests fault. The next flush tries again.
    this.#announced = this.#observer.flush() < 0;
  }
}
