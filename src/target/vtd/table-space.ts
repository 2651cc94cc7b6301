import { PFN_LIMIT } from '../../memory/address.ts';
import type { TableMemory } from '../../pagetable/page-table.ts';
import { type CountedMemory, enumerateTwoStage, type SecondStageMemory } from '../../pagetable/two-stage.ts';
import type { VtdSecondStageTable } from '../../pagetable/vtd-second-stage.ts';
import type { X86Table } from '../../pagetable/x86.ts';
import { LargeLeaves } from '../large-leaves.ts';
import { NO_PROCESS, type Tagged } from '../tagged-spaces.ts';
import type { PfnRange, RunVisitor, TableReader } from '../target.ts';
import { anywhere } from '../told-tables.ts';
import type { StageBuilder, Stages } from './translation/stages.ts';

/** Table entries that one enumeration reads at most, of each stage: 2 GiB of 4 KiB pages. */
export const ENTRY_BUDGET = 1 << 19;

/** Pages of the interrupt address range, FEEx_xxxxh: no request reaches memory there, as input or as output (3.14). */
const INTERRUPTS = { first: 0xfee00, last: 0xfeeff } as const;

/** What the guest's tables mean to requests that share them. */
export class TableSpace implements Tagged {
  readonly name: string;
  readonly owner = 'guest';
  readonly announced: boolean;
  readonly tellsTables = true;
  readonly granuleLg2 = 12;
  readonly apertures: readonly PfnRange[];
  readonly stages: Stages;
  readonly domain: number;
  readonly process: number;
  /** Of the tables that input addresses go through. */
  readonly leaves = new LargeLeaves();
  isLarge = false;
  readonly #builder: StageBuilder;
  readonly #memory: CountedMemory;

  /** `cachingMode`: mappings of the second stage are announced; of the first never (6.1). `withPasid`: its requests carry one. */
  constructor(stages: Stages, withPasid: boolean, cachingMode: boolean, builder: StageBuilder, memory: CountedMemory) {
    this.name = nameOf(stages);
    this.announced = cachingMode && stages.first === null;
    this.stages = stages;
    this.domain = stages.domain;
    this.process = stages.first === null ? NO_PROCESS : stages.pasid;
    this.#builder = builder;
    this.#memory = memory;
    this.apertures = aperturesOf(stages, withPasid);
  }

  /**
   * Reads at most ENTRY_BUDGET entries of each stage: 2 GiB of 4 KiB pages. Behind larger tables the answer is the page reached.
   */
  enumerate(first: number, last: number, visit: RunVisitor, tables: TableReader | null = null): number {
    let reached = -1;
    const outside: RunVisitor = (iova, gpa, pages, permission) => visitOutsideInterrupts(iova, gpa, pages, permission, visit);
    for (const aperture of this.apertures) {
      const from = Math.max(first, aperture.first);
      const to = Math.min(last, aperture.last);
      if (from > to) continue;
      reached = this.#enumerateTables(from, to, outside, tables);
      if (reached <= to) return reached;
    }
    return last + 1;
  }

  #enumerateTables(first: number, last: number, visit: RunVisitor, told: TableReader | null): number {
    const before = this.#memory.loads;
    const reached = this.#read(first, last, visit, told);
    if (this.#memory.loads - before >= ENTRY_BUDGET) this.isLarge = true;
    return reached;
  }

  #read(first: number, last: number, visit: RunVisitor, told: TableReader | null): number {
    const { first: firstStage, second } = this.stages;
    const builder = this.#builder;
    const memory = this.#memory;
    if (firstStage === null) return this.#noting(builder.second(second!, memory), told).enumerate(first, last, visit, ENTRY_BUDGET);
    if (second === null) return this.#noting(builder.first(firstStage, memory), told).enumerate(first, last, visit, ENTRY_BUDGET);
    const tables = {
      memory,
      first: (over: SecondStageMemory) => this.#noting(builder.first(firstStage, over), over.located(told)),
      second: (over: TableMemory) => builder.second(second, over),
      secondRead: anywhere(this.apertures, told),
    };
    return enumerateTwoStage(tables, first, last, visit, ENTRY_BUDGET);
  }

  /** Remembers the large leaves of a table that input addresses go through. */
  #noting<Table extends X86Table | VtdSecondStageTable>(table: Table, told: TableReader | null): Table {
    table.tableRead = told;
    table.largeLeaf = (page, lg2) => this.leaves.add(page, lg2);
    return table;
  }
}

/** A run without what would reach the interrupt range. */
function visitOutsideInterrupts(iova: number, gpa: number, pages: number, permission: number, visit: RunVisitor): boolean {
  const below = Math.min(pages, INTERRUPTS.first - gpa);
  if (below === pages || gpa > INTERRUPTS.last) return visit(iova, gpa, pages, permission);
  if (below > 0 && !visit(iova, gpa, below, permission)) return false;
  const skip = INTERRUPTS.last + 1 - gpa;
  return skip >= pages || visit(iova + skip, gpa + skip, pages - skip, permission);
}

function aperturesOf({ firstTable, secondTable }: Stages, withPasid: boolean): readonly PfnRange[] {
  const { inputBits, canonical } = (firstTable ?? secondTable)!.description;
  const pages = 2 ** (inputBits - 12);
  const low = canonical ? pages / 2 : pages;
  const whole: PfnRange[] = withPasid
    ? [{ first: 0, last: low - 1 }]
    : [
        { first: 0, last: INTERRUPTS.first - 1 },
        { first: INTERRUPTS.last + 1, last: low - 1 },
      ];
  return canonical ? [...whole, { first: PFN_LIMIT - pages / 2, last: PFN_LIMIT - 1 }] : whole;
}

function nameOf({ domain, pasid, first, second }: Stages): string {
  const parts = [first && `PASID ${pasid} (first stage, ${first.levels} levels)`, second && `second stage, ${second.levels} levels`];
  return `domain ${domain}: ${parts.filter((part) => part !== null).join(', ')}`;
}
