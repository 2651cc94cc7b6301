import type { NestingModel } from './nesting/model.ts';
import type { Span } from './spans.ts';
import type { TceConfig } from './vfio/tce-tables.ts';

/** IOVA that a device must not use for mappings (the kernel's IOMMU_RESV_*), in bytes. */
export interface ReservedRange extends Span<bigint> {}

/** What one simulated IOMMU can do. What is left out is as on a PC: 48 bits, 4 KiB, 2 MiB and 1 GiB pages, the MSI window reserved. */
export interface IommuConfig {
  readonly aperture?: Span<bigint>;
  /** Bitmap of page sizes, as the kernel's pgsize_bitmap. */
  readonly pageSizes?: bigint;
  readonly reserved?: readonly ReservedRange[];
  /** Interrupts are remapped; without it the kernel lets nobody have the devices (EPERM). Default true. */
  readonly isolatedMsi?: boolean;
  /** It is a POWER host bridge, which translates through TCE tables in windows; the rest does not count then. Default null. */
  readonly tce?: TceConfig | null;
  /** The hardware sets dirty bits in the tables that the kernel keeps. Default false. */
  readonly dirtyTracking?: boolean;
  /** Width of PASIDs; 0: none. Default 0. */
  readonly pasidLog2?: number;
  /** What it is to a guest whose own tables it walks. Default null: it nests nothing, and says nothing of itself. */
  readonly nesting?: NestingModel | null;
}

const defaults: Required<IommuConfig> = {
  aperture: { first: 0n, last: 0xffff_ffff_ffffn },
  pageSizes: 0x4020_1000n,
  reserved: [{ first: 0xfee0_0000n, last: 0xfeef_ffffn }],
  isolatedMsi: true,
  tce: null,
  dirtyTracking: false,
  pasidLog2: 0,
  nesting: null,
};

/** Where a PC's devices write for interrupts: such a write is no DMA, whatever the tables say (VT-d 4.1, 3.14; 48882, 2.1.4). */
const INTERRUPT_PAGES = { first: 0xfee00, last: 0xfeeff };

/** A simulated IOMMU: the hardware that stands between its devices and memory. */
export class SimIommu {
  readonly config: Required<IommuConfig>;
  /** Domains that exist on it, for leak checks. */
  domains = 0;

  constructor(config: IommuConfig = {}) {
    this.config = { ...defaults, ...config };
  }

  /** Accesses to the page without a PASID are interrupts, or refused, before anything is translated; those with one are like any other (VT-d 4.1, 3.14). */
  isForInterrupts(pfn: number): boolean {
    const { nesting, tce } = this.config;
    return tce === null && nesting?.translatesInterrupts !== true && pfn >= INTERRUPT_PAGES.first && pfn <= INTERRUPT_PAGES.last;
  }
}
