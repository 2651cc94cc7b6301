import { READ, WRITE } from '../../../memory/access.ts';
import { hiOfPfn, loOfPfn, PAGE_LG2, pfnOfHiLo } from '../../../memory/address.ts';
import {
  FAULT_NOT_PRESENT,
  FAULT_PERMISSION,
  type FaultKind,
  faultKind,
  OUT_HI,
  OUT_LENGTH,
  OUT_LO,
  OUT_PERMISSION,
  type PageTable,
  type TableMemory,
} from '../../../pagetable/page-table.ts';
import { SecondStageMemory, type WalkingStage } from '../../../pagetable/two-stage.ts';
import type { Frames, PhysicalMemory } from '../memory.ts';
import { PhysicalTables } from '../physical-tables.ts';
import type { UserBuffer } from '../structs.ts';
import { DMA_FORBIDDEN, DMA_UNMAPPED, type DomainFormat, type ParentStage, type Translation } from '../translation.ts';

/** What a vIOMMU knows by a virtual ID, if anything. */
export type StreamLookup = (virtualId: bigint) => object | undefined;

/** How the user makes the hardware forget (IOMMU_HWPT_INVALIDATE). */
export interface Invalidation {
  /** enum iommu_hwpt_invalidate_data_type */
  readonly type: number;
  /** Carries out one entry of an array: 0 or a negative errno. */
  run(entry: UserBuffer): number;
}

/** The same where the array is copied before anything is done, and goes to the hardware in blocks. */
export interface BlockInvalidation {
  readonly type: number;
  readonly blocks: InvalidationBlocks;
}

export interface InvalidationBlocks {
  /** Entries of a block: one with an entry that is refused is not carried out, and yet what lies before that entry is counted. */
  readonly entries: number;
  /** Bytes of an entry that the kernel knows: more must be zero. */
  readonly entryBytes: number;
  /** An array of none is right. Default false: EINVAL. */
  readonly takesNone?: boolean;
  /** 0, or the negative errno that refuses an entry. */
  check(entry: Uint8Array, device: StreamLookup): number;
  /** Carries out one that was taken: 0 or a negative errno. */
  run(entry: Uint8Array, device: StreamLookup): number;
}

/** A first stage that a user owns, in memory that a paging domain of the kernel maps. */
export interface NestedDomain extends Translation {
  readonly parent: ParentStage;
  /** What attaching it to a device asks for beyond: 0 or a negative errno. `virtualId`: of the device on its vIOMMU, if it has one. */
  accepts(virtualId: bigint | undefined): number;
  readonly invalidation?: Invalidation;
  /** The event for the guest's event queue from the fault that it has just answered with; null: none. `virtualId`: of the device as it was attached. */
  event?(fault: StageFault, virtualId: bigint): Event | null;
  free(): void;
}

/** An access that a first stage has refused. `pasid` -1: none; `code`: DMA_*. */
export interface StageFault {
  readonly pfn: number;
  readonly access: number;
  readonly pasid: number;
  readonly code: number;
}

/** A slice of the hardware that is one guest's (IOMMU_VIOMMU_ALLOC). */
export interface VirtualIommu {
  /** A first stage from the data of IOMMU_HWPT_ALLOC, or a negative errno. */
  nest(type: number, data: UserBuffer): NestedDomain | number;
  /** First stages on it may be for PASIDs (IOMMU_HWPT_ALLOC_PASID). Default true. */
  readonly forPasid?: boolean;
  readonly invalidation?: BlockInvalidation;
  readonly queues?: HardwareQueues;
}

export interface Event {
  /** enum iommu_veventq_type */
  readonly type: number;
  readonly data: Uint8Array;
}

/** Queues of commands that hardware reads without the kernel (IOMMU_HW_QUEUE_ALLOC). */
export interface HardwareQueues {
  /** enum iommu_hw_queue_type */
  readonly type: number;
  /** What of the hardware the user may map, and the offset of it; null: nothing. */
  readonly page: { readonly frames: Frames; readonly offset: number } | null;
  /** Adds a queue of commands at a physical address. 0 or a negative errno. */
  add(index: number, base: number, guestBase: bigint, bytes: number): number;
  remove(index: number): void;
  /** The hardware works: executes what software has put into the queues. */
  run(device: StreamLookup): void;
}

/** What an IOMMU says of itself and nests, in its architecture's own terms. */
export interface NestingModel {
  /** enum iommu_hw_info_type */
  readonly infoType: number;
  /** Data of IOMMU_GET_HW_INFO, of its own type or of another that was asked for; null: not that one. */
  info(type: number): Uint8Array | null;
  /** What the driver's own data makes of a page table that the kernel fills, or a negative errno. Absent: it takes none. */
  paging?(type: number, data: UserBuffer): DomainFormat | number;
  /** A first stage right on a nesting parent, or a negative errno. Absent: it wants a vIOMMU. */
  nest?(parent: ParentStage, physical: PhysicalMemory, type: number, data: UserBuffer): NestedDomain | number;
  /** Its devices' interrupts are writes that are translated like any other. Default false: they have a window, as on a PC. */
  readonly translatesInterrupts?: boolean;
  /** What the kernel fills is a first stage, whose pages that can be written can be read, unless first stages can stand upon it. Default false. */
  readonly fillsFirstStages?: boolean;
  /** Flags of IOMMU_HWPT_ALLOC that may stand beside NEST_PARENT. Default: all. */
  readonly parentFlags?: number;
  /** Its driver blocks a device before it looks whether the table suits (7.3: intel_iommu_attach_device), so that it stays blocked when not. Default false. */
  readonly blocksFirst?: boolean;
  /** It walks two stages. Default: it has `nest` or `virtual`. */
  readonly nestParent?: boolean;
  /** Its driver gives page tables for PASIDs (IOMMU_HWPT_ALLOC_PASID) even where there are none. Default false. */
  readonly pasidTables?: boolean;
  /** enum iommu_viommu_type, those that it has; default: any, where it has `virtual`. */
  readonly virtualTypes?: readonly number[];
  /** A vIOMMU of one of its types, or a negative errno. `answer`: the caller's data, to be filled, if there is any; `place`: the mmap offset of hardware of that size. */
  virtual?(
    parent: ParentStage,
    physical: PhysicalMemory,
    type: number,
    answer: UserBuffer | null,
    place: (bytes: number) => number,
  ): VirtualIommu | number;
}

/** A paging domain as a stage of a walk. */
class PagingStage implements WalkingStage {
  readonly out = new Int32Array(OUT_LENGTH);
  readonly #domain: ParentStage;
  readonly #commit: boolean;

  constructor(domain: ParentStage, commit: boolean) {
    this.#domain = domain;
    this.#commit = commit;
  }

  walk(hi: number, lo: number, access: number): number {
    const page = this.#domain.translate(pfnOfHiLo(hi, lo), access & (READ | WRITE), -1, this.#commit);
    if (page < 0) return page;
    this.out[OUT_HI] = hiOfPfn(page);
    this.out[OUT_LO] = loOfPfn(page) | (lo & 0xfff);
    this.out[OUT_PERMISSION] = READ | WRITE;
    return PAGE_LG2;
  }
}

/** Guest-physical memory as the hardware reaches it: behind the tables that the kernel keeps. */
export function behind(parent: ParentStage, physical: PhysicalMemory, commit: boolean): TableMemory {
  return new SecondStageMemory(new PhysicalTables(physical, commit), new PagingStage(parent, commit), { read: READ, write: WRITE });
}

interface Cached {
  readonly output: number;
  /** Accesses that were walked for: the first write walks again, for the dirty bit. */
  readonly walked: number;
  /** Pages of the first stage's page, and its first page. */
  readonly first: number;
  readonly pages: number;
}

/** A table twice: one that leaves its marks, and one for probes. */
export interface Tables {
  readonly real: PageTable;
  readonly probe: PageTable;
}

export function tablesOver(parent: ParentStage, physical: PhysicalMemory, make: (memory: TableMemory) => PageTable): Tables {
  return { real: make(behind(parent, physical, true)), probe: make(behind(parent, physical, false)) };
}

/**
 * First-stage translations that the hardware remembers until it is told to forget them. It forgets nothing by itself, so that a
 * missing invalidation always shows. The second stage is asked each time: the kernel invalidates what it changes.
 */
export class StageOneCache {
  readonly #entries = new Map<number, Cached>();
  /** Why the last walk ended without a translation. */
  fault: FaultKind = FAULT_NOT_PRESENT;

  /** Guest page that the page reaches, or a fault. */
  translate(tables: Tables, pfn: number, access: number, commit: boolean): number {
    const known = this.#entries.get(pfn);
    if (known !== undefined && (access & ~known.walked) === 0) return known.output;
    const table = commit ? tables.real : tables.probe;
    const lg2 = table.walk(hiOfPfn(pfn), loOfPfn(pfn), access);
    if (lg2 < 0) {
      this.fault = faultKind(lg2);
      return this.fault === FAULT_PERMISSION ? DMA_FORBIDDEN : DMA_UNMAPPED;
    }
    const { out } = table;
    const output = pfnOfHiLo(out[OUT_HI], out[OUT_LO]);
    const pages = 2 ** Math.max(0, lg2 - PAGE_LG2);
    const first = Math.floor(pfn / pages) * pages;
    if (commit) this.#entries.set(pfn, { output, walked: access | (known?.walked ?? 0), first, pages });
    return output;
  }

  /** Forgets every page that has anything in [first, last]; a large page goes whole. */
  invalidate(first: number, last: number): void {
    for (const [pfn, entry] of this.#entries) if (entry.first <= last && entry.first + entry.pages - 1 >= first) this.#entries.delete(pfn);
  }

  clear(): void {
    this.#entries.clear();
  }
}
