import { NO_CONTEXT } from '../../../memory/iotlb.ts';
import type { PageTable, TableMemory } from '../../../pagetable/page-table.ts';
import { TwoStage } from '../../../pagetable/two-stage.ts';
import { VtdSecondStageTable } from '../../../pagetable/vtd-second-stage.ts';
import { X86Table } from '../../../pagetable/x86.ts';

/** A second stage as context and PASID entries name it. */
export interface SecondStage {
  readonly levels: 3 | 4 | 5;
  /** Page frame number of the first table. */
  readonly root: number;
  /** SSADE. */
  readonly accessedDirty: boolean;
}

/** A first stage as PASID entries name it. */
export interface FirstStageTables {
  readonly levels: 4 | 5;
  /** Page frame number of the first table, guest-physical of the second stage where there is one. */
  readonly root: number;
  /** WPE, EAFE. */
  readonly writeProtect: boolean;
  readonly extendedAccessed: boolean;
}

/** What context or PASID entries say of a request's translation. */
export interface Programmed {
  /** Legacy mode: its faults have other reasons. */
  readonly legacy: boolean;
  readonly domain: number;
  /** PASID of the entry; legacy mode has none. */
  readonly pasid: number;
  readonly first: FirstStageTables | null;
  readonly second: SecondStage | null;
  /** FPD of any entry on the way: qualified faults are not recorded. */
  readonly suppressed: boolean;
  /** SRE. */
  readonly supervisor: boolean;
  /** TT 01, DTE: translation requests and translated requests are allowed. */
  readonly deviceTlb: boolean;
  /** PRE. */
  readonly pageRequests: boolean;
}

/** The same, ready to walk. Neither stage: pass-through. */
export interface Stages extends Programmed {
  /** Tags in the IOTLB: see `firstStageSpace`. */
  readonly space: number;
  readonly context: number;
  readonly firstTable: PageTable | null;
  readonly secondTable: PageTable | null;
  readonly nested: TwoStage | null;
}

/** What tells the space of a domain's first stage from that of its second. */
export const FIRST_STAGE = 0x1_0200;

/**
 * IOTLB space of what a first stage translates (alone or nested) in a domain, apart from what a second stage translates there:
 * page-selective invalidation of the domain drops all of the one and a range of the other (table 23). The Iotlb invalidates spaces
 * with equal low 10 bits together, so these differ there too.
 */
export function firstStageSpace(domain: number): number {
  return domain ^ FIRST_STAGE;
}

/** Makes tables of what entries say. */
export class StageBuilder {
  readonly #memory: TableMemory;
  readonly #addressWidth: number;

  constructor(memory: TableMemory, addressWidth: number) {
    this.#memory = memory;
    this.#addressWidth = addressWidth;
  }

  build(programmed: Programmed): Stages {
    const { domain, first, second, pasid } = programmed;
    const secondTable = second && this.second(second, this.#memory);
    const nested =
      first !== null && secondTable !== null
        ? new TwoStage({ memory: this.#memory, second: secondTable, first: (memory) => this.first(first, memory) })
        : null;
    return {
      ...programmed,
      space: first === null ? domain : firstStageSpace(domain),
      context: first === null ? NO_CONTEXT : pasid,
      firstTable: nested === null ? first && this.first(first, this.#memory) : (nested.first as PageTable),
      secondTable,
      nested,
    };
  }

  first({ levels, root, writeProtect, extendedAccessed }: FirstStageTables, memory: TableMemory): X86Table {
    return new X86Table(memory, { levels, root, writeProtect, extendedAccessed, outputBits: this.#addressWidth });
  }

  second({ levels, root, accessedDirty }: SecondStage, memory: TableMemory): VtdSecondStageTable {
    return new VtdSecondStageTable(memory, { levels, root, accessedDirty, outputBits: this.#addressWidth });
  }
}
