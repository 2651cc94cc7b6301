import { EXECUTE, READ, READ_WRITE } from '../../memory/access.ts';
import { PFN_LIMIT } from '../../memory/address.ts';
import type { TableMemory } from '../../pagetable/page-table.ts';
import type { RadixReader } from '../../pagetable/radix-reader.ts';
import { Runs } from '../../pagetable/runs.ts';
import { type CountedMemory, enumerateTwoStage, type SecondStageMemory } from '../../pagetable/two-stage.ts';
import { LargeLeaves } from '../large-leaves.ts';
import { NO_PROCESS, type Tagged } from '../tagged-spaces.ts';
import type { PfnRange, RunVisitor, TableReader } from '../target.ts';
import { anywhere } from '../told-tables.ts';
import type { DeviceEntry } from './translation/device-entry.ts';
import { guestTable } from './translation/guest-tables.ts';
import { withoutMemory } from './translation/special-ranges.ts';

/** Table entries that one enumeration reads at most, of each stage: 2 GiB of 4 KiB pages. */
export const ENTRY_BUDGET = 1 << 19;

interface TableParts {
  readonly entry: DeviceEntry;
  /** PASID of the guest tables and their root, or -1. */
  readonly pasid: number;
  readonly root: number;
  readonly excluded: PfnRange | null;
}

/** What tables in guest memory mean to the requests of a device: the host table, a guest table, or one behind the other. */
export class TableSpace implements Tagged {
  readonly name: string;
  readonly owner = 'guest';
  readonly announced: boolean;
  readonly tellsTables = true;
  readonly granuleLg2 = 12;
  readonly apertures: readonly PfnRange[];
  readonly parts: TableParts;
  readonly domain: number;
  readonly process: number;
  /** Of the tables that invalidations name: the guest's, or the host's without them. */
  readonly leaves = new LargeLeaves();
  isLarge = false;
  readonly #memory: CountedMemory;

  constructor(parts: TableParts, memory: CountedMemory, announced: boolean) {
    const { entry, pasid } = parts;
    this.parts = parts;
    this.domain = entry.domain;
    this.process = pasid < 0 ? NO_PROCESS : pasid;
    this.announced = announced;
    this.#memory = memory;
    this.name = `domain ${entry.domain}${pasid < 0 ? '' : `, PASID ${pasid}`}`;
    this.apertures = withoutMemory(entry.words).reduce(without, aperturesOf(parts));
  }

  /** Reads at most ENTRY_BUDGET entries of each stage. Behind larger tables the answer is the page reached. */
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
    const before = this.#memory.loads;
    const reached = this.#read(from, to, visit, told);
    if (this.#memory.loads - before >= ENTRY_BUDGET) this.isLarge = true;
    return reached;
  }

  #read(from: number, to: number, visit: RunVisitor, told: TableReader | null): number {
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

function without(ranges: readonly PfnRange[], hole: PfnRange): PfnRange[] {
  return ranges
    .flatMap(({ first, last }) => [
      { first, last: Math.min(last, hole.first - 1) },
      { first: Math.max(first, hole.last + 1), last },
    ])
    .filter(({ first, last }) => first <= last);
}
