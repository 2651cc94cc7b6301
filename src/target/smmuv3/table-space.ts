import { EXECUTE, READ, WRITE } from '../../memory/access.ts';
import { PFN_LIMIT } from '../../memory/address.ts';
import type { ArmTable } from '../../pagetable/arm.ts';
import type { TableMemory } from '../../pagetable/page-table.ts';
import { Runs } from '../../pagetable/runs.ts';
import { type CountedMemory, enumerateTwoStage, type SecondStageMemory } from '../../pagetable/two-stage.ts';
import { LargeLeaves } from '../large-leaves.ts';
import type { ReachedSpaces } from '../observed.ts';
import { NO_PROCESS, type Tagged } from '../tagged-spaces.ts';
import type { PfnRange, RunVisitor, TableReader } from '../target.ts';
import { anywhere } from '../told-tables.ts';
import type { Features } from './capabilities.ts';
import type { Context } from './translation/context.ts';
import { secondStage } from './translation/route.ts';
import type { StreamEntry } from './translation/stream-entry.ts';

/** Table entries that one enumeration reads at most, of each stage: 2 GiB of 4 KiB pages. */
export const ENTRY_BUDGET = 1 << 19;

/** What tables in guest memory mean to requests: of stage 1, of stage 2, or of both. */
export class TableSpace implements Tagged {
  readonly name: string;
  readonly owner = 'guest';
  /** 3.21.1: a descriptor that becomes valid needs no invalidation. */
  readonly announced = false;
  readonly tellsTables = true;
  readonly granuleLg2: number;
  readonly apertures: readonly PfnRange[];
  readonly entry: StreamEntry;
  readonly domain: number;
  readonly process: number;
  /** null: stage 2 alone. */
  readonly context: Context | null;
  /** Of the tables that invalidations name: stage 1's, or stage 2's without them. */
  readonly leaves = new LargeLeaves();
  isLarge = false;
  readonly #global: ReachedSpaces;
  readonly #features: Features;
  readonly #memory: CountedMemory;

  /** `global` hears of it once a global page of stage 1 was met. */
  constructor(entry: StreamEntry, context: Context | null, features: Features, memory: CountedMemory, global: ReachedSpaces) {
    this.entry = entry;
    this.domain = entry.world;
    this.process = context === null ? NO_PROCESS : context.asid;
    this.context = context;
    this.#features = features;
    this.#global = global;
    this.#memory = memory;
    this.name = `VMID ${entry.world}${context === null ? '' : `, ASID ${context.asid}`}`;
    const tables = this.#tables(memory);
    this.granuleLg2 = Math.min(52, ...tables.map(({ description }) => description.pageLg2s[0]));
    this.apertures = tables.map(apertureOf).sort((a, b) => a.first - b.first);
  }

  #tables(memory: TableMemory): ArmTable[] {
    const { context, entry } = this;
    if (context === null) return [secondStage(entry, this.#features, memory)];
    return [context.table(false, memory), context.table(true, memory)].filter((table) => table !== null);
  }

  /** Reads at most ENTRY_BUDGET entries of each stage and each table of stage 1. Behind larger ones the answer is the page reached. */
  enumerate(first: number, last: number, visit: RunVisitor, tables: TableReader | null = null): number {
    const runs = new Runs(visit);
    let ended = false;
    const add: RunVisitor = (iova, gpa, pages, permission) => {
      const granted = this.#granted(permission);
      if (granted !== 0) ended = !runs.add(iova, gpa, pages, granted);
      return !ended;
    };
    for (const upper of this.context === null ? [false] : [false, true]) {
      const reached = this.#enumerateTable(upper, first, last, add, tables);
      if (ended) return runs.visitedEnd;
      if (reached <= last) return runs.flush() ? reached : runs.visitedEnd;
    }
    return runs.flush() ? last + 1 : runs.visitedEnd;
  }

  #enumerateTable(upper: boolean, first: number, last: number, visit: RunVisitor, told: TableReader | null): number {
    const before = this.#memory.loads;
    const reached = this.#read(upper, first, last, visit, told);
    if (this.#memory.loads - before >= ENTRY_BUDGET) this.isLarge = true;
    return reached;
  }

  #read(upper: boolean, first: number, last: number, visit: RunVisitor, told: TableReader | null): number {
    const { context, entry } = this;
    const memory = this.#memory;
    if (context === null) return this.#noting(secondStage(entry, this.#features, memory), told).enumerate(first, last, visit, ENTRY_BUDGET);
    const isPrivileged = entry.wishes[0] !== 0;
    const table = context.keepsOff(upper, isPrivileged) ? null : context.table(upper, memory);
    if (table === null) return last + 1;
    if (!entry.s2) return this.#noting(table, told).enumerate(first, last, visit, ENTRY_BUDGET);
    const stages = {
      memory,
      first: (over: SecondStageMemory) => this.#noting(context.table(upper, over) as ArmTable, over.located(told)),
      second: (over: TableMemory) => secondStage(entry, this.#features, over),
      secondRead: anywhere(this.apertures, told),
    };
    return enumerateTwoStage(stages, first, last, visit, ENTRY_BUDGET);
  }

  /** What reads and writes of the stream may do where tables grant `permission`: WXN and INSTCFG applied (src/memory/access.ts). */
  #granted(permission: number): number {
    const allowed = this.context === null ? permission : this.context.permitted(permission);
    const { wishes } = this.entry;
    const each = (access: number) => ((wishes[access] & 7 & ~allowed) === 0 ? access : 0);
    return each(READ) | each(WRITE) | each(EXECUTE);
  }

  #noting(table: ArmTable, told: TableReader | null): ArmTable {
    table.tableRead = told;
    table.largeLeaf = (page, lg2) => this.leaves.add(page, lg2);
    table.globalLeaf = () => {
      table.globalLeaf = null;
      this.#global.entered(this);
    };
    return table;
  }
}

function apertureOf({ description }: ArmTable): PfnRange {
  const pages = 2 ** (description.inputBits - 12);
  return description.upper === true ? { first: PFN_LIMIT - pages, last: PFN_LIMIT - 1 } : { first: 0, last: pages - 1 };
}
