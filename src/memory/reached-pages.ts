import { addressOfPfn, PAGE_BYTES, pfnOf } from './address.ts';
import type { GuestRegion } from './guest-region.ts';

/** A region whose pages may be discarded, and how many mappings of hardware reach each of them. */
interface Discardable {
  readonly region: GuestRegion;
  readonly first: number;
  readonly counts: Uint32Array;
}

/** What of discardable guest memory hardware can reach: 4 bytes a page of such regions, and nothing for the others. */
export class ReachedPages {
  #regions: readonly Discardable[] = [];

  /** These are the regions from now on; of those that stay nothing is forgotten. */
  follow(regions: readonly GuestRegion[]): void {
    this.#regions = regions
      .filter(({ populate }) => populate !== undefined)
      .map((region) => this.#regions.find((known) => known.region === region) ?? discardable(region));
  }

  /** Populates what nothing reaches yet. False: one of them could not be, and nothing is counted. */
  add(first: number, pages: number): boolean {
    const parts = this.#parts(first, pages);
    if (!parts.every(([where, from, end]) => populated(where, from, end))) return false;
    for (const [{ counts }, from, end] of parts) for (let at = from; at < end; at++) counts[at]++;
    return true;
  }

  remove(first: number, pages: number): void {
    for (const [{ counts }, from, end] of this.#parts(first, pages)) for (let at = from; at < end; at++) if (counts[at] > 0) counts[at]--;
  }

  /** Whether all of the pages are discardable, and nothing reaches any. */
  isFree(first: number, pages: number): boolean {
    let free = 0;
    for (const [{ counts }, from, end] of this.#parts(first, pages)) {
      if (!counts.subarray(from, end).every((count) => count === 0)) return false;
      free += end - from;
    }
    return free === pages;
  }

  /** Of each region that has some of the pages: which of its own. */
  #parts(first: number, pages: number): [where: Discardable, from: number, end: number][] {
    const parts: [Discardable, number, number][] = [];
    for (const where of this.#regions) {
      const from = Math.max(first - where.first, 0);
      const end = Math.min(first + pages - where.first, where.counts.length);
      if (from < end) parts.push([where, from, end]);
    }
    return parts;
  }
}

function discardable(region: GuestRegion): Discardable {
  const { gpa, buffer, offset = 0, bytes = buffer.byteLength - offset } = region;
  return { region, first: pfnOf(gpa), counts: new Uint32Array(bytes / PAGE_BYTES) };
}

/** Runs of pages that nothing reaches are populated, each in one call. */
function populated({ region, first, counts }: Discardable, from: number, end: number): boolean {
  for (let at = from; at < end; ) {
    if (counts[at] > 0) {
      at++;
      continue;
    }
    let stop = at + 1;
    while (stop < end && counts[stop] === 0) stop++;
    if (region.populate?.(addressOfPfn(first + at), (stop - at) * PAGE_BYTES) !== true) return false;
    at = stop;
  }
  return true;
}
