import type { Span } from './spans.ts';

/** Translation faults, as a simulated device sees them. */
export const DMA_BLOCKED = -1;
export const DMA_UNMAPPED = -2;
export const DMA_FORBIDDEN = -3;
/** A page request is on its way to whoever reads the fault queue: the device waits for the response and tries again. */
export const DMA_PENDING = -4;

/** An access that was refused, for whoever is to hear of it. */
export interface DmaFault {
  /** The device, by name. */
  readonly device: string;
  readonly pfn: number;
  readonly access: number;
  /** -1: none. */
  readonly pasid: number;
  /** DMA_* */
  readonly code: number;
  /** Tells the device what became of its page request: a response code of struct iommu_hwpt_page_response. */
  respond(code: number): void;
}

/** What the requests of a device go through. */
export interface Translation {
  /** It has a table for each PASID; otherwise (the default) requests with a PASID want an attachment of their own. */
  readonly pasids?: boolean;
  /**
   * Physical page that the page reaches, or a fault (DMA_*). `pasid` -1: none. `commit`: the access is really done and leaves
   * its traces (a cached translation, accessed and dirty bits); a probe leaves none.
   */
  translate(pfn: number, access: number, pasid: number, commit: boolean): number;
  /** Hears of the faults of accesses that were really tried. True: a page request was made of it. */
  fault?(fault: DmaFault): boolean;
}

/** A page table of the kernel's that first stages stand upon. */
export interface ParentStage extends Translation {
  /** First stages that stand upon it now. */
  nested: number;
}

/** What a page table of the kernel's can have of its own: where it maps, and its bitmap of page sizes. */
export interface DomainFormat {
  readonly aperture: Span<bigint>;
  readonly pageSizes: bigint;
}
