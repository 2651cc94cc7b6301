import { PFN_LIMIT } from '../../memory/address.ts';
import type { GuestMemory } from '../../memory/guest-memory.ts';
import type { TableMemory } from '../../pagetable/page-table.ts';
import { CountedMemory } from '../../pagetable/two-stage.ts';
import { IdentitySpace } from '../identity-space.ts';
import { KnownSpaces, type SpaceKey } from '../known-spaces.ts';
import { LargeRanges } from '../large-ranges.ts';
import { Observed } from '../observed.ts';
import { TaggedSpaces } from '../tagged-spaces.ts';
import { type AddressSpace, NO_PASID, type PasidDirectory, type TargetObserver } from '../target.ts';
import type { Registers } from './control/registers.ts';
import { DdtMode } from './spec/registers.ts';
import { type TableParts, TableSpace } from './table-space.ts';
import type { Contexts, Stages } from './translation/contexts.ts';
import type { DeviceContext, DeviceDirectory } from './translation/device-directory.ts';
import { listProcesses } from './translation/process-list.ts';

/** Table entries that one enumeration reads at most, of both stages together. */
const ENUMERATION = 1 << 17;
/** Entries that one guest operation reads. From SPENT on it begins nothing new, so that what it has announced is read to the end. */
const OPERATION = 1 << 19;
const SPENT = OPERATION / 2;
/** What an enumeration may read though its operation is spent, so that each gets on. */
const LEAST = 1 << 12;
/** Pages from which on a range is read before it is announced, in parts that an enumeration can read. */
const LARGE = 1 << 13;
/** Parts in which such a range is announced: 64 GiB of 4 KiB pages, and more. */
const PARTS = 1 << 8;
const NO_REGIONS: GuestMemory['regions'] = [];

export interface SpaceParts {
  readonly memory: TableMemory & { readonly regions?: GuestMemory['regions'] };
  readonly registers: Registers;
  readonly contexts: Contexts;
  readonly directory: DeviceDirectory;
}

/** Address spaces of the endpoints that somebody backs with hardware, and in which pieces the guest's changes are announced. */
export class Spaces {
  readonly #parts: SpaceParts;
  readonly #identity: AddressSpace;
  /** By the tags that invalidations name. */
  readonly #tagged = new TaggedSpaces<TableSpace>((space) => space instanceof TableSpace);
  readonly #observed: Observed;
  readonly #known: KnownSpaces<TableSpace>;
  /** Entries that the announced ranges can cost. */
  #pending = 0;
  /** Ranges that are too large to be announced unread. */
  readonly #large = new LargeRanges<TableSpace>(PARTS);
  /** Where spaces read tables, and what they had read when the guest operation under way began. */
  readonly #tables: CountedMemory;
  readonly #tableParts: TableParts;
  /** By the context that names them: what is read anew is another one. */
  readonly #directories = new WeakMap<DeviceContext, PasidDirectory>();
  /** Of endpoints whose context is not valid. */
  readonly #absent = new Map<number, PasidDirectory>();
  #operating = false;
  #readBefore = 0;

  constructor(parts: SpaceParts) {
    this.#parts = parts;
    this.#tables = new CountedMemory(parts.memory);
    this.#tableParts = { contexts: parts.contexts, directory: parts.directory, tables: this.#tables, budget: () => this.#budget() };
    this.#observed = new Observed('RiscvIommu', this, this.#tagged);
    this.#known = new KnownSpaces(this.#observed, (space) => this.#large.delete(space));
    const { memory } = parts;
    this.#identity = new IdentitySpace(
      {
        get regions() {
          return memory.regions ?? NO_REGIONS;
        },
      },
      'guest',
    );
  }

  /** Somebody wants to hear of changes. */
  get isObserved(): boolean {
    return this.#observed.observer !== null;
  }

  /** A guest operation begins, with a budget of its own, unless it is part of one. Returns whether it did: then `end` is called. */
  begin(): boolean {
    if (this.#operating) return false;
    this.#operating = true;
    this.#readBefore = this.#tables.loads;
    return true;
  }

  /** Before the guest can see how far its commands are. A retry of what failed waits for the next operation when this one is spent. */
  end(): void {
    if (this.#pending > 0 || !this.isSpent) this.flush();
    this.#operating = false;
  }

  /** The operation has made the observer read as much as one may: what is left of its work is the next one's. */
  get isSpent(): boolean {
    return this.#read + this.#pending >= SPENT;
  }

  /** The hardware does not have all yet that the guest has announced. */
  get isBehind(): boolean {
    return !this.#large.isEmpty;
  }

  get #read(): number {
    return this.#tables.loads - this.#readBefore;
  }

  #budget(): number {
    return this.#operating ? Math.max(LEAST, Math.min(ENUMERATION, OPERATION - this.#read)) : ENUMERATION;
  }

  add(endpoint: number): void {
    this.#observed.add(endpoint);
  }

  remove(endpoint: number): void {
    this.#observed.remove(endpoint);
    this.#absent.delete(endpoint);
  }

  observe(observer: TargetObserver): () => void {
    return this.#observed.observe(observer, () => {
      this.#known.clear();
      this.#large.clear();
    });
  }

  retry(): void {
    this.#observed.retry();
  }

  knows(endpoint: number): boolean {
    return this.#observed.knows(endpoint);
  }

  spaceOf(endpoint: number, pasid = NO_PASID): AddressSpace | null {
    return this.#observed.isRefused(endpoint, pasid) ? null : this.wantedSpaceOf(endpoint, pasid);
  }

  /** What a device's requests of user privilege reach that carry this process_id, or none; null: they are blocked. */
  wantedSpaceOf(endpoint: number, process: number): AddressSpace | null {
    const { registers, contexts } = this.#parts;
    if (registers.mode === DdtMode.off || !this.knows(endpoint)) return null;
    if (registers.mode === DdtMode.bare) return this.#identity;
    const context = contexts.admit(endpoint, process, false);
    const stages = context && contexts.find(context, process, false);
    if (stages === null) return null;
    if (stages.first === null && stages.device.second === null) return this.#identity;
    const key = this.#known.key();
    identify(key, stages);
    return this.#known.find(key) ?? this.#known.add(key, new TableSpace(stages, this.#tableParts));
  }

  /** Says.listPasids */
  listPasids(endpoint: number): readonly number[] {
    const { registers, contexts, directory } = this.#parts;
    if (registers.mode === DdtMode.off || registers.mode === DdtMode.bare) return [];
    const context = contexts.admit(endpoint, NO_PASID, false);
    return context === null ? [] : listProcesses(context, directory, this.#tables);
  }

  /**
   * Says.directoryOf: contexts need no command when they become valid, for what is not may not be cached ("Caching in-memory data structures"). Behind a
   * second stage tables of processes cannot be told.
   */
  directoryOf(endpoint: number): PasidDirectory | null {
    const { registers, contexts, directory } = this.#parts;
    if (registers.mode === DdtMode.off || registers.mode === DdtMode.bare || !directory.covers(endpoint)) return null;
    const context = contexts.admit(endpoint, NO_PASID, false);
    if (context === null) return this.#absentOf(endpoint);
    if (!context.pdtv || context.secondStage !== null) return null;
    const known = this.#directories.get(context);
    if (known !== undefined) return known;
    const made: PasidDirectory = {
      name: `process directory of device ${endpoint}`,
      ofEndpoint: context.dpe,
      read: (tables) => void listProcesses(context, directory, this.#tables, tables),
      stored: (first, last) => this.#operation(() => this.#observed.refreshProcesses(endpoint, first, last)),
    };
    this.#directories.set(context, made);
    return made;
  }

  #absentOf(endpoint: number): PasidDirectory {
    const known = this.#absent.get(endpoint);
    if (known !== undefined) return known;
    const made: PasidDirectory = {
      name: `device directory, device ${endpoint}`,
      ofEndpoint: true,
      read: (tables) => this.#parts.directory.tell(endpoint, this.#tables, tables),
      stored: () => this.#operation(() => this.refresh(endpoint)),
    };
    this.#absent.set(endpoint, made);
    return made;
  }

  #operation(work: () => void): void {
    const began = this.begin();
    work();
    if (began) this.end();
  }

  /** What the observer was told. */
  toldDirectoryOf(endpoint: number): PasidDirectory | null {
    return this.#observed.directoryOf(endpoint);
  }

  pasidsOf(endpoint: number): readonly number[] {
    return this.#observed.pasidsOf(endpoint);
  }

  /** The endpoint's context may be another one: the observer is told when its space, or a process of it, is. */
  refresh(endpoint: number): void {
    this.#observed.refresh(endpoint);
  }

  /** The same of one process, which may be one that was not there before. */
  refreshProcess(endpoint: number, process: number): void {
    this.#observed.refreshProcess(process, [endpoint]);
  }

  refreshAll(): void {
    this.#observed.refreshAll();
    this.#known.dropUnused();
  }

  /** IOTINVAL.VMA: [first, last] of the spaces that the operands select. -1: any GSCID (host spaces), any PSCID. */
  changedFirst(gscid: number, pscid: number, first: number, last: number): void {
    this.#announce(pscid < 0 ? this.#tagged.ofDomain(gscid) : this.#tagged.of(gscid, pscid), first, last);
  }

  /** IOTINVAL.GVMA: guest-physical pages [first, last] of a GSCID, -1: of all. Behind a first stage any page may have changed. */
  changedSecond(gscid: number, first: number, last: number): void {
    const selected = [...(gscid < 0 ? this.#tagged.all : this.#tagged.ofDomain(gscid))].filter((space) => space.domain >= 0);
    this.#announce(
      selected.filter(({ stages }) => stages.first === null),
      first,
      last,
    );
    this.#announce(
      selected.filter(({ stages }) => stages.first !== null),
      0,
      PFN_LIMIT - 1,
    );
  }

  /** The IOMMU has forgotten what it had cached, and no command of the guest's says so. */
  changedAll(): void {
    this.#announce(this.#tagged.all, 0, PFN_LIMIT - 1);
  }

  #announce(spaces: Iterable<TableSpace>, first: number, last: number): void {
    for (const space of spaces) {
      const range = space.leaves.widened(first, last);
      const pages = range.last - range.first + 1;
      if (pages > LARGE) this.#large.add(space, range);
      else this.#tell(space, range.first, range.last, space.costOf(pages));
    }
    if (this.#pending >= ENUMERATION) this.flush();
  }

  #tell(space: TableSpace, first: number, last: number, cost: number): void {
    this.#observed.changed(space, first, last);
    this.#pending += cost;
  }

  /** Announces of a large range what an enumeration can read at once, so that nothing which the guest left alone is missed meanwhile. */
  readonly #announcePart = (space: TableSpace, first: number, last: number, all: boolean): number => {
    // What is read here is read again by the observer.
    const share = Math.min(ENUMERATION, Math.floor((SPENT - this.#read - this.#pending) / 2));
    if (share < LEAST) return first;
    if (all) {
      this.#tell(space, first, last, ENUMERATION);
      return last + 1;
    }
    const before = this.#tables.loads;
    const reached = space.read(first, last, () => true, share);
    if (reached > first) this.#tell(space, first, reached - 1, this.#tables.loads - before);
    return reached;
  };

  /** Before the guest can see that its commands are done. False: the hardware has a part of what they announced, and the next operation goes on. */
  flush(): boolean {
    this.#observed.retry();
    this.#large.advance(this.#announcePart);
    this.#pending = 0;
    this.#observed.flush();
    return !this.isBehind;
  }
}

/** By mode, for keys. */
const LEVELS = { sv32: 2, sv39: 3, sv48: 4, sv57: 5 } as const;

/** All that decides what the tables mean and which invalidations select them. */
function identify(key: SpaceKey, { device, firstStage, sum, pscid }: Stages): void {
  const { secondStage, gscid, sade, gade, sbe, sxl, msi, msiRoot, msiMask, msiPattern } = device;
  key.add(firstStage === null ? 0 : LEVELS[firstStage.mode]);
  if (firstStage !== null) key.add(firstStage.root).add(pscid).add(sum).add(sade).add(sbe).add(sxl);
  key.add(secondStage === null ? 0 : LEVELS[secondStage.mode]);
  if (secondStage === null) return;
  key.add(secondStage.root).add(gscid).add(gade).add(msi);
  if (msi) key.add(msiRoot).addAll(msiMask).addAll(msiPattern);
}
