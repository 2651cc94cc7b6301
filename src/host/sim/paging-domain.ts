import { WRITE } from '../../memory/access.ts';
import { PAGE_LG2 } from '../../memory/address.ts';
import type { SimIommu } from './iommu.ts';
import { type Span, SpanList } from './spans.ts';
import { DMA_FORBIDDEN, DMA_UNMAPPED, type ParentStage } from './translation.ts';

/** Contiguous pages of a domain: IOVA pages [first, last] reach physical pages from `physical` on. Page numbers count 4 KiB. */
export interface DomainRun extends Span<number> {
  readonly physical: number;
  readonly permission: number;
  /** Its entries are of the smallest size only. Default: of the largest that fit. */
  readonly small?: boolean;
}

/** An I/O page table that the kernel keeps for an IOMMU (iommu_domain of type UNMANAGED). */
export class PagingDomain implements ParentStage {
  readonly iommu: SimIommu;
  nested = 0;
  /** The hardware sets dirty bits. */
  tracking = false;
  readonly #runs = new SpanList<number, DomainRun>();
  /** First pages of the leaf entries whose dirty bit is set. */
  readonly #dirty = new Set<number>();
  readonly #pageSizes: readonly number[];

  constructor(iommu: SimIommu) {
    this.iommu = iommu;
    iommu.domains++;
    const sizes: number[] = [];
    for (let lg2 = 63; lg2 >= PAGE_LG2; lg2--) if (((iommu.config.pageSizes >> BigInt(lg2)) & 1n) !== 0n) sizes.push(2 ** (lg2 - PAGE_LG2));
    this.#pageSizes = sizes;
  }

  map(run: DomainRun): void {
    this.#runs.insert(run);
  }

  /** Takes away all runs that lie within [first, last]. */
  unmap(first: number, last: number): void {
    for (let run = this.#runs.firstIn(first, last); run !== undefined; run = this.#runs.firstIn(first, last)) {
      this.#runs.remove(run);
      this.#forgetDirty(run);
    }
  }

  /** By page or by dirty bit, whichever are fewer. */
  #forgetDirty({ first, last }: DomainRun): void {
    if (last - first < this.#dirty.size) for (let page = first; page <= last; page++) this.#dirty.delete(page);
    else for (const page of this.#dirty) if (page >= first && page <= last) this.#dirty.delete(page);
  }

  translate(pfn: number, access: number, _pasid: number, commit: boolean): number {
    const run = this.#runs.at(pfn);
    if (run === undefined) return DMA_UNMAPPED;
    if ((access & ~run.permission) !== 0) return DMA_FORBIDDEN;
    if (commit && this.tracking && (access & WRITE) !== 0) this.#dirty.add(this.#leaf(run, pfn)[0]);
    return run.physical + (pfn - run.first);
  }

  /** The leaf entry that maps a page, as first page and pages: the largest that fits the run, as the kernel fills its tables. */
  #leaf(run: DomainRun, pfn: number): readonly [number, number] {
    for (const pages of run.small ? [] : this.#pageSizes) {
      const first = Math.floor(pfn / pages) * pages;
      const physical = run.physical + (first - run.first);
      if (first >= run.first && first + pages - 1 <= run.last && physical % pages === 0) return [first, pages];
    }
    return [pfn, 1];
  }

  get anyDirty(): boolean {
    return this.#dirty.size > 0;
  }

  clearDirty(): void {
    this.#dirty.clear();
  }

  /** Visits the leaf entries with a dirty bit in [first, last], as ranges clipped to it; clears the bits if told to. */
  readDirty(first: number, last: number, clear: boolean, visit: (first: number, last: number) => void): void {
    for (const page of this.#dirty) {
      const run = this.#runs.at(page);
      if (run === undefined) continue;
      const [start, pages] = this.#leaf(run, page);
      if (start > last || start + pages - 1 < first) continue;
      visit(Math.max(start, first), Math.min(start + pages - 1, last));
      if (clear) this.#dirty.delete(page);
    }
  }

  free(): void {
    this.iommu.domains--;
  }
}
