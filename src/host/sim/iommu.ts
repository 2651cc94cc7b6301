import { type Span, SpanList } from './spans.ts';

/** IOVA that a device must not use for mappings (the kernel's IOMMU_RESV_*), in bytes. */
export interface ReservedRange extends Span<bigint> {}

/** What one simulated IOMMU can do. What is left out is as on a PC: 48 bits, 4 KiB, 2 MiB and 1 GiB pages, the MSI window reserved. */
export interface IommuConfig {
  readonly aperture?: Span<bigint>;
  /** Bitmap of page sizes, as the kernel's pgsize_bitmap. */
  readonly pageSizes?: bigint;
  readonly reserved?: readonly ReservedRange[];
  /** Interrupts are remapped; without it the kernel lets nobody have the devices (EPERM). */
  readonly isolatedMsi?: boolean;
}

const defaults: Required<IommuConfig> = {
  aperture: { first: 0n, last: 0xffff_ffff_ffffn },
  pageSizes: 0x4020_1000n,
  reserved: [{ first: 0xfee0_0000n, last: 0xfeef_ffffn }],
  isolatedMsi: true,
};

/** A simulated IOMMU: the hardware that stands between its devices and memory. */
export class SimIommu {
  readonly config: Required<IommuConfig>;
  /** Domains that exist on it, for leak checks. */
  domains = 0;

  constructor(config: IommuConfig = {}) {
    this.config = { ...defaults, ...config };
  }
}

/** Contiguous pages of a domain: IOVA pages [first, last] reach physical pages from `physical` on. Page numbers count 4 KiB. */
export interface DomainRun extends Span<number> {
  readonly physical: number;
  readonly permission: number;
}

/** What a device's requests go through: answers a physical page, or a negative fault. */
export interface Translation {
  translate(pfn: number, access: number): number;
}

/** Translation faults, as a simulated device sees them. */
export const DMA_BLOCKED = -1;
export const DMA_UNMAPPED = -2;
export const DMA_FORBIDDEN = -3;

/** An I/O page table that the kernel keeps for an IOMMU (iommu_domain of type UNMANAGED). */
export class PagingDomain implements Translation {
  readonly iommu: SimIommu;
  readonly #runs = new SpanList<number, DomainRun>();

  constructor(iommu: SimIommu) {
    this.iommu = iommu;
    iommu.domains++;
  }

  map(run: DomainRun): void {
    this.#runs.insert(run);
  }

  /** Takes away all runs that lie within [first, last]. */
  unmap(first: number, last: number): void {
    for (let run = this.#runs.firstIn(first, last); run !== undefined; run = this.#runs.firstIn(first, last)) this.#runs.remove(run);
  }

  translate(pfn: number, access: number): number {
    const run = this.#runs.at(pfn);
    if (run === undefined) return DMA_UNMAPPED;
    if ((access & ~run.permission) !== 0) return DMA_FORBIDDEN;
    return run.physical + (pfn - run.first);
  }

  free(): void {
    this.iommu.domains--;
  }
}
