import { PFN_LIMIT } from '../../memory/address.ts';
import type { TableMemory } from '../../pagetable/page-table.ts';
import type { RiscvTable } from '../../pagetable/riscv.ts';
import { type EnumeratingStage, enumerateTwoStage, type SecondStageMemory } from '../../pagetable/two-stage.ts';
import { LargeLeaves } from '../large-leaves.ts';
import type { Tagged } from '../tagged-spaces.ts';
import type { PfnRange, RunVisitor, TableReader } from '../target.ts';
import { anywhere } from '../told-tables.ts';
import type { Contexts, Stages } from './translation/contexts.ts';
import type { DeviceContext, DeviceDirectory } from './translation/device-directory.ts';
import { nextInterruptFile } from './translation/msi.ts';

/** Entries that a page of an announced range can cost, of tables and leaf: in one stage, and through two. */
const ENTRIES_OF_PAGE = [2, 16] as const;
/** Share of its budget that a two-stage enumeration gives to each stage: an entry of the first costs a walk of the second. */
const TWO_STAGE_SHARE = 8;
/** Virtual interrupt files that one enumeration steps over at most; a virtual machine has one for each hart. */
const INTERRUPT_FILES = 1 << 14;

export interface TableParts {
  readonly contexts: Contexts;
  readonly directory: DeviceDirectory;
  readonly tables: TableMemory;
  /** Entries that an enumeration may read now. */
  budget(): number;
}

/** What the guest's tables mean to requests of user privilege that share them. */
export class TableSpace implements Tagged {
  readonly name: string;
  readonly owner = 'guest';
  readonly announced = false;
  readonly tellsTables = true;
  readonly granuleLg2 = 12;
  readonly apertures: readonly PfnRange[];
  readonly stages: Stages;
  readonly domain: number;
  readonly process: number;
  /** Of the stage that invalidations by address name: the first, or the second where the first is Bare. */
  readonly leaves = new LargeLeaves();
  readonly #parts: TableParts;
  readonly #memory: TableMemory;

  constructor(stages: Stages, parts: TableParts) {
    this.name = nameOf(stages);
    this.stages = stages;
    this.domain = stages.device.second === null ? -1 : stages.device.gscid;
    this.process = stages.pscid;
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

function nameOf({ device, firstStage, pscid }: Stages): string {
  const second = device.secondStage && `GSCID ${device.gscid} (${device.secondStage.mode}x4)`;
  const first = firstStage && `PSCID ${pscid} (${firstStage.mode})`;
  return [second, first].filter((part) => part !== null).join(', ');
}
