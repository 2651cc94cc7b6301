import { EXECUTE, READ, READ_WRITE } from '../../memory/access.ts';
import { PFN_LIMIT } from '../../memory/address.ts';
import type { GuestMemory } from '../../memory/guest-memory.ts';
import type { TableMemory } from '../../pagetable/page-table.ts';
import type { RadixReader } from '../../pagetable/radix-reader.ts';
import { Runs } from '../../pagetable/runs.ts';
import { CountedMemory, enumerateTwoStage, type SecondStageMemory } from '../../pagetable/two-stage.ts';
import { get, put } from '../fields.ts';
import { IdentitySpace } from '../identity-space.ts';
import { LargeLeaves } from '../large-leaves.ts';
import {
  type AddressSpace,
  type FirstStage,
  NO_PASID,
  type PfnRange,
  type RunVisitor,
  sameStage,
  type TableReader,
  type TargetObserver,
} from '../target.ts';
import { anywhere } from '../told-tables.ts';
import { DTE } from './spec/dte.ts';
import { type DeviceEntry, VERDICT } from './translation/device-entry.ts';
import { guestTable } from './translation/guest-tables.ts';
import type { Translator } from './translation/translator.ts';

/** Table entries that one enumeration reads at most, of each stage: 8 GiB of 4 KiB pages. */
const ENTRY_BUDGET = 1 << 21;
/** Messages are written there: no memory. */
const INTERRUPTS: PfnRange = { first: 0xfee00, last: 0xfeeff };

interface TableParts {
  readonly entry: DeviceEntry;
  /** PASID of the guest tables and their root, or -1. */
  readonly pasid: number;
  readonly root: number;
  readonly excluded: PfnRange | null;
}

/** What tables in guest memory mean to the requests of a device: the host table, a guest table, or one behind the other. */
class TableSpace implements AddressSpace {
  readonly name: string;
  readonly owner = 'guest';
  readonly announced: boolean;
  readonly tellsTables = true;
  readonly granuleLg2 = 12;
  readonly apertures: readonly PfnRange[];
  readonly parts: TableParts;
  /** Of the tables that invalidations name: the guest's, or the host's without them. */
  readonly leaves = new LargeLeaves();
  readonly #memory: CountedMemory;

  constructor(parts: TableParts, memory: CountedMemory, announced: boolean) {
    const { entry, pasid } = parts;
    this.parts = parts;
    this.announced = announced;
    this.#memory = memory;
    this.name = `domain ${entry.domain}${pasid < 0 ? '' : `, PASID ${pasid}`}`;
    this.apertures = withoutInterrupts(aperturesOf(parts));
  }

  /** Reads at most ENTRY_BUDGET entries of each stage; hardware has nothing of what lies behind. */
  enumerate(first: number, last: number, visit: RunVisitor, tables: TableReader | null = null): number {
    const runs = new Runs(visit);
    const { excluded, entry } = this.parts;
    // Who may read may fetch, where the guest's tables say so.
    const allowed = entry.granted | ((entry.granted & READ) !== 0 ? EXECUTE : 0);
    let ended = false;
    const add: RunVisitor = (iova, gpa, pages, permission) => {
      const granted = permission & allowed;
      if (granted !== 0) ended = !runs.add(iova, gpa, pages, granted);
      return !ended;
    };
    for (const aperture of this.apertures) {
      for (let at = Math.max(first, aperture.first); at <= Math.min(last, aperture.last) && !ended; ) {
        const end = Math.min(last, aperture.last);
        const inside = excluded !== null && at >= excluded.first && at <= excluded.last;
        const stop = inside
          ? Math.min(end, excluded.last)
          : excluded !== null && at < excluded.first
            ? Math.min(end, excluded.first - 1)
            : end;
        // The exclusion range is not asked for permissions.
        if (inside) ended = !runs.add(at, at, stop - at + 1, READ_WRITE);
        else {
          const reached = this.#tables(at, stop, add, tables);
          if (!ended && reached <= stop) return runs.flush() ? reached : runs.visitedEnd;
        }
        at = stop + 1;
      }
    }
    return !ended && runs.flush() ? last + 1 : runs.visitedEnd;
  }

  #tables(from: number, to: number, visit: RunVisitor, told: TableReader | null): number {
    const { entry, pasid, root } = this.parts;
    const memory = this.#memory;
    if (pasid < 0)
      return entry.host === null
        ? flat(from, to, visit)
        : this.#noting(entry.hostTable(memory), told).enumerate(from, to, visit, ENTRY_BUDGET);
    if (entry.host === null) return this.#noting(guestTable(entry, root, memory), told).enumerate(from, to, visit, ENTRY_BUDGET);
    const stages = {
      memory,
      first: (over: SecondStageMemory) => this.#noting(guestTable(entry, root, over), over.located(told)),
      second: (over: TableMemory) => entry.hostTable(over),
      secondRead: anywhere(this.apertures, told),
    };
    return enumerateTwoStage(stages, from, to, visit, ENTRY_BUDGET);
  }

  #noting<Table extends RadixReader>(table: Table, told: TableReader | null): Table {
    table.tableRead = told;
    table.largeLeaf = (page, lg2) => this.leaves.add(page, lg2);
    return table;
  }
}

function flat(first: number, last: number, visit: RunVisitor): number {
  visit(first, first, last - first + 1, READ_WRITE);
  return last + 1;
}

function aperturesOf({ entry, pasid }: TableParts): PfnRange[] {
  if (pasid >= 0) {
    const pages = 2 ** (entry.guestLevels === 5 ? 45 : 36);
    return [
      { first: 0, last: pages / 2 - 1 },
      { first: PFN_LIMIT - pages / 2, last: PFN_LIMIT - 1 },
    ];
  }
  const pages = entry.mode === 0 ? PFN_LIMIT : Math.min(PFN_LIMIT, 2 ** (9 * entry.mode));
  return [{ first: 0, last: pages - 1 }];
}

function withoutInterrupts(ranges: readonly PfnRange[]): PfnRange[] {
  return ranges
    .flatMap(({ first, last }) => [
      { first, last: Math.min(last, INTERRUPTS.first - 1) },
      { first: Math.max(first, INTERRUPTS.last + 1), last },
    ])
    .filter(({ first, last }) => first <= last);
}

/** Address spaces of the endpoints that somebody backs with hardware, and what the observer has been told of them. */
export class Spaces {
  readonly #translator: Translator;
  readonly #announced: boolean;
  readonly #identity: AddressSpace;
  readonly #tables: CountedMemory;
  readonly #endpoints = new Set<number>();
  readonly #spaces = new Map<string, TableSpace>();
  readonly #attached = new Map<number, AddressSpace | null>();
  /** What `stageOf` said when the endpoint was attached. */
  readonly #stages = new Map<number, FirstStage | null>();
  readonly #owed = new Set<number>();
  #observer: TargetObserver | null = null;
  #changed = false;
  #readBefore = 0;

  constructor(translator: Translator, memory: GuestMemory, announced: boolean) {
    this.#translator = translator;
    this.#announced = announced;
    this.#identity = new IdentitySpace(memory);
    this.#tables = new CountedMemory(memory);
  }

  add(endpoint: number): void {
    this.#endpoints.add(endpoint);
    this.refresh(endpoint);
  }

  knows(endpoint: number): boolean {
    return this.#endpoints.has(endpoint);
  }

  remove(endpoint: number): void {
    if (this.#attached.get(endpoint)) this.#observer?.attach(endpoint, null);
    this.#attached.delete(endpoint);
    this.#stages.delete(endpoint);
    this.#owed.delete(endpoint);
    this.#endpoints.delete(endpoint);
  }

  observe(observer: TargetObserver): () => void {
    if (this.#observer !== null) throw new TypeError('AmdIommu: it has an observer already');
    this.#observer = observer;
    this.refreshAll();
    return () => {
      if (this.#observer !== observer) return;
      this.#observer = null;
      this.#attached.clear();
      this.#stages.clear();
      this.#owed.clear();
    };
  }

  spaceOf(endpoint: number, pasid = NO_PASID): AddressSpace | null {
    if (!this.#endpoints.has(endpoint)) return null;
    const entry = this.#translator.entry(endpoint);
    if (entry.verdict === VERDICT.pass) return this.#identity;
    if (entry.verdict !== VERDICT.translate) return null;
    const context = entry.guestPasid(pasid);
    if (context < 0 && pasid >= 0) return null;
    const excluded = this.#translator.excluded(entry);
    const root = context < 0 ? -1 : this.#translator.guestRoot(entry, context);
    if ((context >= 0 && root < 0) || (entry.granted === 0 && excluded === null)) return null;
    const key = JSON.stringify([entry.domain, entry.granted, entry.hostRoot, context, root, entry.guestLevels, excluded]);
    const known = this.#spaces.get(key);
    if (known !== undefined) return known;
    if (this.#spaces.size > 2 * this.#endpoints.size) this.#dropUnused();
    const space = new TableSpace({ entry, pasid: context, root, excluded }, this.#tables, this.#announced);
    this.#spaces.set(key, space);
    return space;
  }

  /** The device's entry as hardware of the same kind takes it over, where guest tables are all that it has (2.2.2.1). */
  stageOf(endpoint: number, pasid = NO_PASID): FirstStage | null {
    const entry = this.#endpoints.has(endpoint) ? this.#translator.entry(endpoint) : null;
    if (entry === null || (entry.verdict !== VERDICT.translate && entry.verdict !== VERDICT.pass)) return { kind: 'abort' };
    if (entry.verdict === VERDICT.pass) return { kind: 'bypass' };
    if (entry.guestPasid(pasid) >= 0 && entry.host === null && entry.granted === READ_WRITE)
      return { kind: 'amd', dte: doublewords(entry) };
    if (pasid >= 0) return { kind: 'abort' };
    return entry.host === null && entry.granted === READ_WRITE ? { kind: 'bypass' } : null;
  }

  /** The endpoint's entry may be another one: the observer is told when its space is. */
  refresh(endpoint: number): void {
    if (this.#observer === null || !this.#endpoints.has(endpoint)) return;
    const space = this.spaceOf(endpoint);
    const stage = this.stageOf(endpoint);
    this.#owed.delete(endpoint);
    if (this.#attached.get(endpoint) === space && sameStage(this.#stages.get(endpoint) ?? null, stage)) return;
    if (this.#observer.attach(endpoint, space) >= 0) {
      this.#attached.set(endpoint, space);
      this.#stages.set(endpoint, stage);
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
    const used = new Set(this.#attached.values());
    for (const [key, space] of this.#spaces) if (!used.has(space)) this.#spaces.delete(key);
  }

  /** INVALIDATE_IOMMU_PAGES. `pasid` -1: the host table's input, behind which any page of a guest table may have changed. */
  invalidated(domain: number, pasid: number, first: number, last: number): void {
    for (const space of new Set(this.#attached.values())) {
      if (!(space instanceof TableSpace) || space.parts.entry.domain !== domain) continue;
      if (space.parts.pasid === pasid) this.#say(space, first, last);
      else if (pasid < 0) this.#say(space, 0, PFN_LIMIT - 1);
    }
    if (pasid >= 0) this.refreshAll();
  }

  /** INVALIDATE_IOMMU_ALL. */
  invalidatedAll(): void {
    this.refreshAll();
    for (const space of new Set(this.#attached.values())) if (space instanceof TableSpace) this.#say(space, 0, PFN_LIMIT - 1);
  }

  /** All that was made of the leaves that covered the range. */
  #say(space: TableSpace, first: number, last: number): void {
    const from = space.leaves.first(first);
    const to = space.leaves.last(last);
    if (from === 0 && to === PFN_LIMIT - 1) space.leaves.clear();
    this.#observer?.changed(space, from, to);
    this.#changed = true;
  }

  /** The guest's own command, for hardware that walks the guest's tables. */
  command(words: Int32Array, endpoint: number): void {
    this.#observer?.invalidated?.(words, endpoint);
  }

  /** Before the guest can see that its commands are done. */
  flush(): void {
    for (const endpoint of [...this.#owed]) this.refresh(endpoint);
    if (!this.#changed || this.#observer === null) return;
    // What the host refuses is not there for the hardware, whose requests fault. The next flush tries again.
    this.#changed = this.#observer.flush() < 0;
  }

  beginAccess(): void {
    this.#readBefore = this.#tables.loads;
  }

  /** A register access has made the observer read as much as one enumeration may: the rest of its commands is the next one's. */
  get isSpent(): boolean {
    return this.#tables.loads - this.#readBefore >= ENTRY_BUDGET;
  }
}

/** What of the entry is about guest tables: interrupts are remapped here, and attributes are the host's. */
function doublewords({ words }: DeviceEntry): readonly [bigint, bigint, bigint, bigint] {
  const one = (i: number) => (BigInt(words[2 * i + 1] >>> 0) << 32n) | BigInt(words[2 * i] >>> 0);
  const levels = new Int32Array(8);
  put(levels, DTE.GUEST_LEVELS, get(words, DTE.GUEST_LEVELS));
  return [one(0), one(1), BigInt(levels[5] >>> 0) << 32n, 0n];
}
