import { PFN_LIMIT } from '../../memory/address.ts';
import type { GuestMemory } from '../../memory/guest-memory.ts';
import type { TableMemory } from '../../pagetable/page-table.ts';
import type { RiscvTable } from '../../pagetable/riscv.ts';
import { CountedMemory, type EnumeratingStage, enumerateTwoStage, type SecondStageMemory } from '../../pagetable/two-stage.ts';
import { IdentitySpace } from '../identity-space.ts';
import { LargeLeaves } from '../large-leaves.ts';
import { type AddressSpace, NO_PASID, type PfnRange, type RunVisitor, type TableReader, type TargetObserver } from '../target.ts';
import { anywhere } from '../told-tables.ts';
import { AttachedSpaces } from './attached-spaces.ts';
import type { Registers } from './control/registers.ts';
import { DdtMode } from './spec/registers.ts';
import type { Contexts, Stages } from './translation/contexts.ts';
import type { DeviceContext, DeviceDirectory } from './translation/device-directory.ts';
import { nextInterruptFile } from './translation/msi.ts';

/** Table entries that one enumeration reads at most, of both stages together. */
const ENUMERATION = 1 << 17;
/** Entries that one guest operation reads. From SPENT on it begins nothing new, so that what it has announced is read to the end. */
const OPERATION = 1 << 19;
const SPENT = OPERATION / 2;
/** What an enumeration may read though its operation is spent, so that each gets on. */
const LEAST = 1 << 12;
/** Entries that a page of an announced range can cost, of tables and leaf: in one stage, and through two. */
const ENTRIES_OF_PAGE = [2, 16] as const;
/** Share of its budget that a two-stage enumeration gives to each stage: an entry of the first costs a walk of the second. */
const TWO_STAGE_SHARE = 8;
/** Pages from which on a range is read before it is announced, in parts that an enumeration can read. */
const LARGE = 1 << 13;
const NO_REGIONS: GuestMemory['regions'] = [];
/** Virtual interrupt files that one enumeration steps over at most; a virtual machine has one for each hart. */
const INTERRUPT_FILES = 1 << 14;

interface TableParts {
  readonly contexts: Contexts;
  readonly directory: DeviceDirectory;
  readonly tables: TableMemory;
  /** Entries that an enumeration may read now. */
  budget(): number;
}

/** What the guest's tables mean to the requests of a device that carry no process_id. */
class TableSpace implements AddressSpace {
  readonly name: string;
  readonly owner = 'guest';
  readonly announced = false;
  readonly tellsTables = true;
  readonly granuleLg2 = 12;
  readonly apertures: readonly PfnRange[];
  readonly stages: Stages;
  readonly gscid: number;
  readonly pscid: number;
  /** Of the stage that invalidations by address name: the first, or the second where the first is Bare. */
  readonly leaves = new LargeLeaves();
  readonly #parts: TableParts;
  readonly #memory: TableMemory;

  constructor(name: string, stages: Stages, parts: TableParts) {
    this.name = name;
    this.stages = stages;
    this.gscid = stages.device.second === null ? -1 : stages.device.gscid;
    this.pscid = stages.pscid;
    this.#parts = parts;
    this.#memory = parts.tables;
    this.apertures = aperturesOf(stages);
  }

  /** Entries that a change of so many pages can make an enumeration read. */
  costOf(pages: number): number {
    return pages * ENTRIES_OF_PAGE[this.stages.nested === null ? 0 : 1];
  }

  /**
   * Reads at most ENUMERATION entries, less where the guest operation under way has made others read. Behind that the answer is the
   * page reached. Virtual interrupt files are no memory and are left out.
   */
  enumerate(first: number, last: number, visit: RunVisitor, tables?: TableReader): number {
    return this.read(first, last, visit, this.#parts.budget(), tables);
  }

  /** The same with a budget of the caller's. */
  read(first: number, last: number, visit: RunVisitor, budget: number, told: TableReader | null = null): number {
    const { device, firstStage, sum } = this.stages;
    const { contexts, directory } = this.#parts;
    const memory = this.#memory;
    const { secondStage } = device;
    const upper = (over: TableMemory, reads: TableReader | null) =>
      this.#noting(contexts.firstTable(device, firstStage!, sum, over), reads);
    if (secondStage === null) return upper(memory, told).enumerate(first, last, visit, budget);
    const tables = (over: TableMemory) => directory.secondTable(secondStage, device, over);
    if (firstStage === null) return withoutInterruptFiles(this.#noting(tables(memory), told), device).enumerate(first, last, visit, budget);
    const second = (over: TableMemory) => withoutInterruptFiles(tables(over), device);
    const stages = {
      memory,
      second,
      first: (over: SecondStageMemory) => upper(over, over.located(told)),
      secondRead: anywhere(this.apertures, told),
    };
    return enumerateTwoStage(stages, first, last, visit, Math.floor(budget / TWO_STAGE_SHARE));
  }

  #noting(table: RiscvTable, told: TableReader | null): RiscvTable {
    table.tableRead = told;
    table.largeLeaf = (page, lg2) => this.leaves.add(page, lg2);
    return table;
  }
}

function aperturesOf({ first, device }: Stages): readonly PfnRange[] {
  const { inputBits, canonical } = (first ?? device.second)!.description;
  const pages = 2 ** (inputBits - 12);
  if (!canonical) return [{ first: 0, last: pages - 1 }];
  return [
    { first: 0, last: pages / 2 - 1 },
    { first: PFN_LIMIT - pages / 2, last: PFN_LIMIT - 1 },
  ];
}

/**
 * A second stage whose runs leave out the pages that MSI address translation takes ("Process to translate an IOVA", step 18).
 * For one enumeration: INTERRUPT_FILES is its bound, however often the first stage asks.
 */
function withoutInterruptFiles(stage: EnumeratingStage, device: DeviceContext): EnumeratingStage {
  if (!device.msi) return stage;
  const files = new InterruptFiles(device);
  let left = INTERRUPT_FILES;
  const enumerate: EnumeratingStage['enumerate'] = (first, last, visit, budget) => {
    let stopped = -1;
    const split: RunVisitor = (gpa, output, pages, permission) => {
      const end = gpa + pages;
      for (let at = gpa; at < end; ) {
        const file = files.next(at);
        const stop = Math.min(file, end);
        if (stop > at && !visit(at, output + (at - gpa), stop - at, permission)) stopped = stop;
        else if (file < end && left-- <= 0) stopped = file;
        if (stopped >= 0) return false;
        at = stop + 1;
      }
      return true;
    };
    const reached = stage.enumerate(first, last, split, budget);
    return stopped < 0 ? reached : stopped;
  };
  return { walk: (hi, lo, access) => stage.walk(hi, lo, access), out: stage.out, enumerate };
}

/** Where the interrupt files are. Runs come in ascending order mostly, so the last answer serves until it is passed. */
class InterruptFiles {
  readonly #device: DeviceContext;
  #from = 0;
  #next = -1;

  constructor(device: DeviceContext) {
    this.#device = device;
  }

  /** First page, from `at` on, that is an interrupt file's; Infinity: none. */
  next(at: number): number {
    if (at >= this.#from && at <= this.#next) return this.#next;
    const found = nextInterruptFile(this.#device, at);
    this.#from = at;
    this.#next = found < 0 ? Number.POSITIVE_INFINITY : found;
    return this.#next;
  }
}

export interface SpaceParts {
  readonly memory: TableMemory & { readonly regions?: GuestMemory['regions'] };
  readonly registers: Registers;
  readonly contexts: Contexts;
  readonly directory: DeviceDirectory;
}

/** Address spaces of the endpoints that somebody backs with hardware, and what the observer has been told of them. */
export class Spaces {
  readonly #parts: SpaceParts;
  readonly #identity: AddressSpace;
  readonly #endpoints = new Set<number>();
  /** By what identifies a space: endpoints with equal contexts share one. */
  readonly #spaces = new Map<string, TableSpace>();
  readonly #attached = new AttachedSpaces<TableSpace>((space) => space instanceof TableSpace);
  /** Endpoints that the observer refused to attach. */
  readonly #owed = new Set<number>();
  #observer: TargetObserver | null = null;
  /** A change was announced since the last flush. */
  #announced = false;
  /** Entries that the announced ranges can cost. */
  #pending = 0;
  /** Ranges that are too large to be announced unread: what is left of them, one for each space. */
  readonly #large = new Map<TableSpace, { first: number; last: number }>();
  /** Where spaces read tables, and what they had read when the guest operation under way began. */
  readonly #tables: CountedMemory;
  readonly #tableParts: TableParts;
  #operating = false;
  #readBefore = 0;

  constructor(parts: SpaceParts) {
    this.#parts = parts;
    this.#tables = new CountedMemory(parts.memory);
    this.#tableParts = { contexts: parts.contexts, directory: parts.directory, tables: this.#tables, budget: () => this.#budget() };
    const { memory } = parts;
    this.#identity = new IdentitySpace({
      get regions() {
        return memory.regions ?? NO_REGIONS;
      },
    });
  }

  /** Somebody wants to hear of changes. */
  get isObserved(): boolean {
    return this.#observer !== null;
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
    return this.#large.size > 0;
  }

  get #read(): number {
    return this.#tables.loads - this.#readBefore;
  }

  #budget(): number {
    return this.#operating ? Math.max(LEAST, Math.min(ENUMERATION, OPERATION - this.#read)) : ENUMERATION;
  }

  add(endpoint: number): void {
    this.#endpoints.add(endpoint);
    this.refresh(endpoint);
  }

  remove(endpoint: number): void {
    if (this.#attached.get(endpoint)) this.#observer?.attach(endpoint, null);
    this.#attached.delete(endpoint);
    this.#owed.delete(endpoint);
    this.#endpoints.delete(endpoint);
  }

  observe(observer: TargetObserver): () => void {
    if (this.#observer !== null) throw new TypeError('RiscvIommu: it has an observer already');
    this.#observer = observer;
    this.refreshAll();
    return () => {
      if (this.#observer !== observer) return;
      this.#observer = null;
      this.#attached.clear();
      this.#owed.clear();
      this.#spaces.clear();
      this.#large.clear();
    };
  }

  knows(endpoint: number): boolean {
    return this.#endpoints.has(endpoint);
  }

  /** What a device's requests without process_id reach; null: they are blocked. */
  spaceOf(endpoint: number): AddressSpace | null {
    const { registers, contexts } = this.#parts;
    if (registers.mode === DdtMode.off || !this.#endpoints.has(endpoint)) return null;
    if (registers.mode === DdtMode.bare) return this.#identity;
    const context = contexts.admit(endpoint, NO_PASID, false);
    const stages = context && contexts.find(context, NO_PASID, false);
    if (stages === null) return null;
    if (stages.first === null && stages.device.second === null) return this.#identity;
    const key = keyOf(stages);
    const known = this.#spaces.get(key);
    if (known !== undefined) return known;
    if (this.#spaces.size > 2 * this.#endpoints.size) this.#dropUnused();
    const space = new TableSpace(nameOf(stages), stages, this.#tableParts);
    this.#spaces.set(key, space);
    return space;
  }

  /** The endpoint's context may be another one: the observer is told when its space is. */
  refresh(endpoint: number): void {
    if (this.#observer === null || !this.#endpoints.has(endpoint)) return;
    const space = this.spaceOf(endpoint);
    this.#owed.delete(endpoint);
    if (this.#attached.get(endpoint) === space) return;
    if (this.#observer.attach(endpoint, space) >= 0) {
      this.#attached.set(endpoint, space);
      return;
    }
    // Refused: it must not go on reaching what the guest took away. Blocked, it waits for the next flush.
    this.#owed.add(endpoint);
    if (this.#observer.attach(endpoint, null) >= 0) this.#attached.set(endpoint, null);
  }

  refreshAll(): void {
    for (const endpoint of this.#endpoints) this.refresh(endpoint);
    this.#dropUnused();
  }

  #dropUnused(): void {
    for (const [key, space] of this.#spaces) {
      if (this.#attached.reaches(space)) continue;
      this.#spaces.delete(key);
      this.#large.delete(space);
    }
  }

  /** IOTINVAL.VMA: [first, last] of the spaces that the operands select. -1: any GSCID (host spaces), any PSCID. */
  changedFirst(gscid: number, pscid: number, first: number, last: number): void {
    this.#announce(this.#attached.tagged(gscid, pscid), first, last);
  }

  /** IOTINVAL.GVMA: guest-physical pages [first, last] of a GSCID, -1: of all. Behind a first stage any page may have changed. */
  changedSecond(gscid: number, first: number, last: number): void {
    const selected = [...(gscid < 0 ? this.#attached.all : this.#attached.tagged(gscid, -1))].filter((space) => space.gscid >= 0);
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

  #announce(spaces: Iterable<TableSpace>, first: number, last: number): void {
    if (this.#observer === null) return;
    for (const space of spaces) {
      const from = space.leaves.first(first);
      const to = space.leaves.last(last);
      if (to - from >= LARGE) this.#postpone(space, from, to);
      else this.#tell(space, from, to, space.costOf(to - from + 1));
    }
    if (this.#pending >= ENUMERATION) this.flush();
  }

  #tell(space: TableSpace, first: number, last: number, cost: number): void {
    this.#observer?.changed(space, first, last);
    this.#announced = true;
    this.#pending += cost;
  }

  /** One range a space: two become one with what lies between them. */
  #postpone(space: TableSpace, first: number, last: number): void {
    const left = this.#large.get(space);
    if (left === undefined) this.#large.set(space, { first, last });
    else Object.assign(left, { first: Math.min(left.first, first), last: Math.max(left.last, last) });
  }

  /** Announces of the large ranges what an enumeration can read at once, so that nothing which the guest left alone is missed meanwhile. */
  #advance(): void {
    for (const [space, left] of this.#large) {
      // What is read here is read again by the observer.
      const share = Math.min(ENUMERATION, Math.floor((SPENT - this.#read - this.#pending) / 2));
      if (share < LEAST) return;
      const before = this.#tables.loads;
      const reached = space.read(left.first, left.last, () => true, share);
      if (reached > left.first) this.#tell(space, left.first, reached - 1, this.#tables.loads - before);
      left.first = reached;
      if (reached > left.last) this.#large.delete(space);
    }
  }

  /** Before the guest can see that its commands are done. False: the hardware has a part of what they announced, and the next operation goes on. */
  flush(): boolean {
    for (const endpoint of [...this.#owed]) this.refresh(endpoint);
    this.#advance();
    this.#pending = 0;
    // The mappings are the guest's: what the host refuses is not there for the hardware, whose requests fault. The next flush tries again.
    if (this.#announced && this.#observer !== null) this.#announced = this.#observer.flush() < 0;
    return !this.isBehind;
  }
}

/** All that decides what the tables mean and which invalidations select them. */
function keyOf(stages: Stages): string {
  const { device, firstStage, sum, pscid } = stages;
  const { secondStage, gscid, sade, gade, sbe, sxl, msi, msiRoot, msiMask, msiPattern } = device;
  const second = secondStage && [secondStage, gscid, gade, msi && [msiRoot, msiMask, msiPattern]];
  return JSON.stringify([firstStage && [firstStage, pscid, sum, sade, sbe, sxl], second]);
}

function nameOf({ device, firstStage, pscid }: Stages): string {
  const second = device.secondStage && `GSCID ${device.gscid} (${device.secondStage.mode}x4)`;
  const first = firstStage && `PSCID ${pscid} (${firstStage.mode})`;
  return [second, first].filter((part) => part !== null).join(', ');
}
