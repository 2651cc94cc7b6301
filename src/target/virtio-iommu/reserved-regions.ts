import { PAGE_BYTES, pfnOf } from '../../memory/address.ts';
import { requireObject } from '../../memory/arguments.ts';
import type { PfnRange } from '../target.ts';
import { RESV_MEM_BYTES } from './spec/properties.ts';

/** Addresses that an endpoint's driver must not map (5.13.6.8.1). */
export interface ReservedRegion {
  /** `msi`: writes there are interrupts and pass the IOMMU as they are. */
  readonly kind: 'reserved' | 'msi';
  /** First and last byte; whole pages. */
  readonly start: bigint;
  readonly last: bigint;
}

/** The same in page frame numbers. */
interface ReservedPages extends PfnRange {
  readonly kind: ReservedRegion['kind'];
}

/** What is reserved for one endpoint. */
export class ReservedRegions {
  readonly regions: readonly ReservedRegion[];
  /** Ascending. */
  readonly pages: readonly ReservedPages[];

  /** @throws RangeError for regions that overlap, are no whole pages, are two for MSIs, or do not fit a PROBE answer; TypeError for bounds that are no bigints. */
  constructor(regions: readonly ReservedRegion[], probeBytes: number) {
    if (!Array.isArray(regions)) throw new TypeError('VirtioIommu: reserved regions are no array');
    for (const region of regions) requireObject('VirtioIommu', 'reserved region', region);
    if (regions.length * RESV_MEM_BYTES > probeBytes)
      throw new RangeError(`VirtioIommu: ${regions.length} reserved regions do not fit a probe of ${probeBytes} bytes`);
    // RESV_MEM.2.
    if (regions.filter(({ kind }) => kind === 'msi').length > 1) throw new RangeError('VirtioIommu: two reserved regions for MSIs');
    this.regions = regions;
    this.pages = regions.map(pagesOf).sort((a, b) => a.first - b.first);
    // RESV_MEM.3.
    this.pages.forEach(({ first }, i) => {
      if (i > 0 && this.pages[i - 1].last >= first) throw new RangeError('VirtioIommu: two reserved regions overlap');
    });
  }

  /** Whether a page of [first, last] is reserved. */
  touch(first: number, last: number): boolean {
    for (const region of this.pages) if (region.first <= last && region.last >= first) return true;
    return false;
  }

  /** Whether the page is the doorbell of MSIs. */
  isMsi(pfn: number): boolean {
    for (const region of this.pages) if (region.kind === 'msi' && region.first <= pfn && region.last >= pfn) return true;
    return false;
  }
}

function pagesOf({ kind, start, last }: ReservedRegion): ReservedPages {
  const page = BigInt(PAGE_BYTES);
  if (typeof start !== 'bigint' || typeof last !== 'bigint')
    throw new TypeError(`VirtioIommu: reserved region [${String(start)}, ${String(last)}] is not of bigints`);
  if (start < 0n || last < start || last >= 1n << 64n || start % page !== 0n || (last + 1n) % page !== 0n)
    throw new RangeError(`VirtioIommu: reserved region [0x${start.toString(16)}, 0x${last.toString(16)}] is not whole pages`);
  return { kind, first: pfnOf(start), last: pfnOf(last) };
}
