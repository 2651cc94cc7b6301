import { READ, WRITE } from '../../memory/access.ts';
import { PAGE_BYTES } from '../../memory/address.ts';
import type { SimIommu } from './iommu.ts';
import { type Span, SpanList } from './spans.ts';
import { DMA_FORBIDDEN, DMA_UNMAPPED, type DomainFormat, type ParentStage } from './translation.ts';

/** Contiguous pages of a domain: IOVA pages [first, last] reach physical pages from `physical` on. Page numbers count the domain's `granule`. */
export interface DomainRun extends Span<number> {
  readonly physical: number;
  readonly permission: number;
  /** Its entries are of the smallest size only. Default: of the largest that fit. */
  readonly small?: boolean;
}

/** An I/O page table that the kernel keeps for an IOMMU (iommu_domain of type UNMANAGED). */
export class PagingDomain implements ParentStage {
  readonly iommu: SimIommu;
  readonly format: DomainFormat;
  /** Bytes of a page: 4 KiB, or less where the IOMMU has smaller ones. */
  readonly granule: number;
  nested = 0;
  /** The hardware sets dirty bits. */
  tracking = false;
  readonly #runs = new SpanList<number, DomainRun>();
  /** First pages of the leaf entries whose dirty bit is set. */
  readonly #dirty = new Set<number>();
  readonly #pageSizes: readonly number[];
  /** What can be written can be read. */
  readonly #isFirstStage: boolean;

  /** `format`: default as the IOMMU has it. */
  constructor(iommu: SimIommu, format: DomainFormat = iommu.config, isParent = false) {
    this.iommu = iommu;
    this.#isFirstStage = !isParent && iommu.config.nesting?.fillsFirstStages === true;
    this.format = format;
    iommu.domains++;
    const { pageSizes } = format;
    this.granule = Math.min(PAGE_BYTES, Number(pageSizes & -pageSizes));
    const sizes: number[] = [];
    for (let lg2 = 63; 2 ** lg2 >= this.granule; lg2--) if (((pageSizes >> BigInt(lg2)) & 1n) !== 0n) sizes.push(2 ** lg2 / this.granule);
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
    const perPage = PAGE_BYTES / this.granule;
    const page = pfn * perPage;
    const run = this.#runs.at(page);
    if (run === undefined) return DMA_UNMAPPED;
    const granted = this.#isFirstStage && (run.permission & WRITE) !== 0 ? run.permission | READ : run.permission;
    if ((access & ~granted) !== 0) return DMA_FORBIDDEN;
    if (commit && (access & WRITE) !== 0) this.dirtied(page);
    return Math.floor((run.physical + (page - run.first)) / perPage);
  }

  /** Physical address behind an IOVA, or -1. */
  physicalOf(iova: bigint): number {
    const granule = BigInt(this.granule);
    const page = Number(iova / granule);
    const run = this.#runs.at(page);
    return run === undefined ? -1 : (run.physical + (page - run.first)) * this.granule + Number(iova % granule);
  }

  /** The hardware has written the page. */
  dirtied(page: number): void {
    const run = this.#runs.at(page);
    if (run !== undefined && this.tracking) this.#dirty.add(this.#leaf(run, page)[0]);
  }

  /** The leaf entry that maps a page, as first page and pages: the largest that fits the run, as the kernel fills its tables. */
  #leaf(run: DomainRun, pfn: number): readonly [number, number] {
    const most = run.small === true ? PAGE_BYTES / this.granule : Number.POSITIVE_INFINITY;
    for (const pages of this.#pageSizes) {
      if (pages > most) continue;
      const first = Math.floor(pfn / pages) * pages;
      const physical = run.physical + (first - run.first);
      if (first >= run.first && first + pages - 1 <= run.last && physical % pages === 0) return [first, pages];
    }
    return [pfn, 1];
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
