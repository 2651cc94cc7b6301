import { addressOfPfn, PAGE_BYTES, pfnOf } from '../../memory/address.ts';
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
  /** What PROBE says. */
  readonly regions: readonly ReservedRegion[];
  /** Ascending. */
  readonly pages: readonly ReservedPages[];
  readonly #probeBytes: number;

  /** @throws RangeError for regions that overlap, are no whole pages, are two for MSIs, or do not fit a PROBE answer; TypeError for bounds that are no bigints. */
  constructor(regions: readonly ReservedRegion[], probeBytes: number) {
    if (!Array.isArray(regions)) throw new TypeError('VirtioIommu: reserved regions are no array');
    for (const region of regions) requireObject('VirtioIommu', 'reserved region', region);
    // Without room for one there is no PROBE (5.13.3), and nobody is told; all the same nothing is mapped there.
    if (probeBytes > 0 && regions.length * RESV_MEM_BYTES > probeBytes)
      throw new RangeError(`VirtioIommu: ${regions.length} reserved regions do not fit a probe of ${probeBytes} bytes`);
    // RESV_MEM.2.
    if (regions.filter(({ kind }) => kind === 'msi').length > 1) throw new RangeError('VirtioIommu: two reserved regions for MSIs');
    this.regions = regions;
    this.pages = regions.map(pagesOf).sort((a, b) => a.first - b.first);
    this.#probeBytes = probeBytes;
    // RESV_MEM.3.
    this.pages.forEach(({ first }, i) => {
      if (i > 0 && this.pages[i - 1].last >= first) throw new RangeError('VirtioIommu: two reserved regions overlap');
    });
  }

  /**
   * These, and all of `input` that is not in `reachable` (ascending). Where a PROBE answer has no room for so many, the ones that are nearest to each
   * other become one, with what lies between them. @throws RangeError when even that does not fit
   */
  beyond(reachable: readonly PfnRange[], input: PfnRange): ReservedRegions {
    const free = [...reachable, ...this.pages].sort((a, b) => a.first - b.first);
    const pages: ReservedPages[] = [...this.pages, ...without(free, input).map((range) => ({ kind: 'reserved' as const, ...range }))];
    pages.sort((a, b) => a.first - b.first);
    const room = this.#probeBytes === 0 ? Number.POSITIVE_INFINITY : Math.floor(this.#probeBytes / RESV_MEM_BYTES);
    while (pages.length > room && joinNearest(pages));
    return new ReservedRegions(pages.map(regionOf), this.#probeBytes);
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

function regionOf({ kind, first, last }: ReservedPages): ReservedRegion {
  return { kind, start: addressOfPfn(first), last: addressOfPfn(last) | 0xfffn };
}

/** The parts of a range that none of `taken` (ascending by `first`) has. */
export function without(taken: readonly PfnRange[], range: PfnRange): PfnRange[] {
  const rest: PfnRange[] = [];
  let from = range.first;
  for (const { first, last } of taken) {
    if (first > range.last) break;
    if (first > from) rest.push({ first: from, last: first - 1 });
    from = Math.max(from, last + 1);
  }
  if (from <= range.last) rest.push({ first: from, last: range.last });
  return rest;
}

/** Makes one of two neighbours (ascending), those with the fewest pages between them; the doorbell stays by itself. False: there are no two. */
function joinNearest(pages: ReservedPages[]): boolean {
  let at = -1;
  for (let i = 1; i < pages.length; i++) {
    if (pages[i - 1].kind === 'msi' || pages[i].kind === 'msi') continue;
    if (at < 0 || pages[i].first - pages[i - 1].last < pages[at].first - pages[at - 1].last) at = i;
  }
  if (at < 0) return false;
  pages.splice(at - 1, 2, { kind: 'reserved', first: pages[at - 1].first, last: pages[at].last });
  return true;
}
