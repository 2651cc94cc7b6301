import { PFN_LIMIT } from '../../memory/address.ts';
import { CountedMemory } from '../../pagetable/two-stage.ts';
import { Announcements } from '../announcements.ts';
import { IdentitySpace } from '../identity-space.ts';
import { KnownSpaces, type SpaceKey } from '../known-spaces.ts';
import { Observed } from '../observed.ts';
import { NO_PROCESS, TaggedSpaces } from '../tagged-spaces.ts';
import { type AddressSpace, type FirstStage, NO_PASID, type PasidDirectory, type PfnRange, type TargetObserver } from '../target.ts';
import { UnprotectedRam } from './control/protected-memory.ts';
import type { Registers } from './control/registers.ts';
import { ResponseCode } from './spec/page-requests.ts';
import type { PageGroupResponse, VtdSurroundings } from './surroundings.ts';
import { ENTRY_BUDGET, TableSpace } from './table-space.ts';
import type { Contexts } from './translation/contexts.ts';
import type { StageBuilder, Stages } from './translation/stages.ts';
import { Structures } from './translation/structures.ts';

/** Announced pages, each range counted up to ENTRY_BUDGET, after which a flush does not wait for the end of the descriptors. */
const PENDING_LIMIT = 2 * ENTRY_BUDGET;

export interface SpaceParts {
  readonly memory: VtdSurroundings['memory'];
  readonly registers: Registers;
  readonly contexts: Contexts;
  readonly builder: StageBuilder;
  readonly cachingMode: boolean;
  readonly respond: VtdSurroundings['respond'];
}

/** Address spaces of the endpoints that somebody backs with hardware. */
export class Spaces {
  readonly #parts: SpaceParts;
  readonly #unprotected: AddressSpace;
  #identity: AddressSpace;
  readonly #observed: Observed;
  /** By the tags that invalidations name. */
  readonly #tagged = new TaggedSpaces<TableSpace>((space) => space instanceof TableSpace);
  readonly #known: KnownSpaces<TableSpace>;
  /** See PENDING_LIMIT. */
  #pending = 0;
  /** Where spaces read tables, and what they had read when the register access under way began. */
  readonly #tables: CountedMemory;
  readonly #structures: Structures;
  readonly #announcements: Announcements<TableSpace>;
  /** By endpoint, as the registers that lead there are. */
  readonly #directories = new Map<number, PasidDirectory>();

  constructor(parts: SpaceParts) {
    this.#parts = parts;
    this.#tables = new CountedMemory(parts.memory);
    this.#structures = new Structures(this.#tables);
    this.#unprotected = new IdentitySpace(new UnprotectedRam(parts.memory, []), 'guest');
    this.#identity = this.#unprotected;
    this.#observed = new Observed('VtdIommu', this, this.#tagged);
    this.#announcements = new Announcements(this.#observed, this.#tables, ENTRY_BUDGET);
    this.#known = new KnownSpaces(this.#observed, (space) => this.#announcements.forget(space));
  }

  get isObserved(): boolean {
    return this.#observed.observer !== null;
  }

  /** A register access begins, with a budget of its own. */
  beginAccess(): void {
    this.#announcements.begin();
  }

  /** The access has made the observer read as much as one enumeration may: what is left of its work is the next one's. */
  get isSpent(): boolean {
    return this.#announcements.isSpent;
  }

  add(endpoint: number): void {
    this.#observed.add(endpoint);
  }

  retry(): void {
    this.#observed.retry();
  }

  knows(endpoint: number): boolean {
    return this.#observed.knows(endpoint);
  }

  remove(endpoint: number): void {
    this.#observed.remove(endpoint);
    this.#directories.delete(endpoint);
  }

  observe(observer: TargetObserver): () => void {
    return this.#observed.observe(observer, () => {
      this.#known.clear();
      this.#announcements.clear();
    });
  }

  /** What no table decides about reaches all of guest RAM but these ranges. */
  protect(ranges: readonly PfnRange[]): void {
    this.#identity = ranges.length === 0 ? this.#unprotected : new IdentitySpace(new UnprotectedRam(this.#parts.memory, ranges), 'guest');
    this.refreshAll();
  }

  spaceOf(endpoint: number, pasid = NO_PASID): AddressSpace | null {
    return this.#observed.isRefused(endpoint, pasid) ? null : this.wantedSpaceOf(endpoint, pasid);
  }

  stageOf(endpoint: number, pasid = NO_PASID): FirstStage | null {
    return this.#observed.isRefused(endpoint, pasid) ? { kind: 'abort' } : this.wantedStageOf(endpoint, pasid);
  }

  /** What the requests of an endpoint reach; null: they are blocked. */
  wantedSpaceOf(endpoint: number, pasid: number): AddressSpace | null {
    const { registers, contexts } = this.#parts;
    if (!this.knows(endpoint)) return null;
    if (!registers.translating) return this.#identity;
    const stages = contexts.find(endpoint, pasid);
    if (stages === null) return null;
    return stages.first === null && stages.second === null ? this.#identity : this.#spaceFor(stages, pasid !== NO_PASID);
  }

  /** Says.listPasids */
  listPasids(endpoint: number): readonly number[] {
    return this.#parts.contexts.list(endpoint, this.#structures);
  }

  pasidsOf(endpoint: number): readonly number[] {
    return this.#observed.pasidsOf(endpoint);
  }

  /**
   * Says.directoryOf: without caching mode no entry that becomes present needs an invalidation (6.1), of whichever table. All of them are told, from the root
   * on.
   */
  directoryOf(endpoint: number): PasidDirectory | null {
    const { contexts, cachingMode } = this.#parts;
    if (cachingMode || !contexts.isTabled) return null;
    const known = this.#directories.get(endpoint);
    if (known !== undefined) return known;
    const made: PasidDirectory = {
      name: `root, context and PASID tables of device 0x${endpoint.toString(16)}`,
      ofEndpoint: true,
      read: (tables) => contexts.tell(endpoint, this.#structures, tables),
      stored: (first, last) => this.#stored(endpoint, first, last),
    };
    this.#directories.set(endpoint, made);
    return made;
  }

  /** The guest's CPU has stored to an entry that requests of the endpoint go by. */
  #stored(endpoint: number, first: number, last: number): void {
    this.beginAccess();
    this.#observed.refreshProcesses(endpoint, first, last);
    this.flush();
  }

  /** What the observer was told. */
  toldDirectoryOf(endpoint: number): PasidDirectory | null {
    return this.#observed.directoryOf(endpoint);
  }

  #spaceFor(stages: Stages, withPasid: boolean): TableSpace {
    const key = this.#known.key();
    identify(key, stages, withPasid);
    const { cachingMode, builder } = this.#parts;
    return this.#known.find(key) ?? this.#known.add(key, new TableSpace(stages, withPasid, cachingMode, builder, this.#tables));
  }

  /** The same as a value (FirstStage); null: a second stage of the guest's own, which hardware cannot take over as a first. */
  wantedStageOf(endpoint: number, pasid: number): FirstStage | null {
    const { registers, contexts } = this.#parts;
    if (!this.knows(endpoint)) return { kind: 'abort' };
    const pass: FirstStage | null = this.#identity === this.#unprotected ? { kind: 'bypass' } : null;
    if (!registers.translating) return pass;
    const stages = contexts.find(endpoint, pasid);
    if (stages === null) return { kind: 'abort' };
    const { first, second, supervisor } = stages;
    if (second !== null) return null;
    if (first === null) return pass;
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
    this.#observed.refresh(endpoint);
  }

  /** The same of one PASID of every endpoint, which may be one that was not there before. */
  refreshProcess(process: number): void {
    this.#observed.refreshProcess(process);
  }

  refreshAll(): void {
    this.#directories.clear();
    this.#observed.refreshAll();
    this.#known.dropUnused();
  }

  /** Everything of a domain, -1: of all, may mean something else. */
  changedDomain(domain: number): void {
    this.#announce(domain < 0 ? this.#tagged.all : this.#tagged.ofDomain(domain), 0, PFN_LIMIT - 1);
  }

  /** Input pages [first, last] of a domain's second stage: behind a first stage any page may have changed (table 23). */
  changedSecond(domain: number, first: number, last: number): void {
    this.#announce(this.#tagged.of(domain, NO_PROCESS), first, last);
    for (const space of this.#tagged.ofDomain(domain)) if (space.process !== NO_PROCESS) this.#announce([space], 0, PFN_LIMIT - 1);
  }

  /** Everything that a domain's second stage alone translates. */
  changedSecondOnly(domain: number): void {
    this.#announce(this.#tagged.of(domain, NO_PROCESS), 0, PFN_LIMIT - 1);
  }

  /** Input pages [first, last] of a PASID's first stage. */
  changedFirst(domain: number, pasid: number, first: number, last: number): void {
    this.#announce(this.#tagged.of(domain, pasid), first, last);
  }

  #announce(spaces: Iterable<TableSpace>, first: number, last: number): void {
    for (const space of spaces) this.#pending += Math.min(this.#announcements.say(space, first, last), ENTRY_BUDGET);
    if (this.#pending >= PENDING_LIMIT) this.flush();
  }

  /** The guest's own words, for hardware that walks the guest's first stage. */
  passOn(words: Int32Array, endpoint: number): void {
    this.#observed.invalidated(words, endpoint);
  }

  /** What becomes of a device's page requests: the emulated one is told by the machine, a passed-through one by the observer. */
  answer(response: PageGroupResponse): void {
    const { device, pasid, group, code } = response;
    const answer = code === ResponseCode.success ? 'success' : code === ResponseCode.invalidRequest ? 'invalid' : 'failure';
    this.#observed.observer?.answered?.(device, pasid ?? NO_PASID, group, answer);
    this.#parts.respond?.(response);
  }

  /** The same for descriptors, the last of which may wait. */
  beginQueue(): void {
    this.#announcements.beginCommands();
  }

  /** Before the guest can see how far its descriptors are. A retry of what failed waits for the next access when this one is spent. As `flush`. */
  endQueue(): boolean {
    const isDue = this.#pending > 0 || !this.isSpent;
    this.#pending = 0;
    return this.#announcements.endCommands(isDue);
  }

  /** Before the guest can see that its descriptors are done. False: the hardware has a part of what they announced. */
  flush(): boolean {
    this.#pending = 0;
    return this.#announcements.flush();
  }
}

/** Which tables these are and which invalidations name them: equal for requests that share them. */
function identify(key: SpaceKey, { domain, pasid, first, second }: Stages, withPasid: boolean): void {
  key
    .add(domain)
    .add(withPasid)
    .add(first?.levels ?? 0);
  if (first !== null) key.add(pasid).add(first.root).add(first.writeProtect).add(first.extendedAccessed);
  key.add(second?.levels ?? 0);
  if (second !== null) key.add(second.root).add(second.accessedDirty);
}
