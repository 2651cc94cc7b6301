import type { DirtyRanges } from './dirty-ranges.ts';
import type { RunList } from './run-list.ts';

/** The lists that `difference` reads and fills. Host mappings cannot be cut: each run of `held` stays or goes as a whole. */
export interface DifferenceLists {
  /** Host mappings that touch the dirty ranges, ascending, whole (they may stick out of the ranges). */
  readonly held: RunList;
  /** What the dirty ranges should map, ascending, clipped to them. */
  readonly wanted: RunList;
  /** Out: host mappings to take away. */
  readonly removals: RunList;
  /** Out: parts of removals that lie outside the dirty ranges and must stay mapped. */
  readonly remnants: RunList;
  /** Out: what to map anew inside the dirty ranges. */
  readonly additions: RunList;
  /** Scratch: the host mappings that stay. */
  readonly kept: RunList;
}

/** What a difference says of splits: removals that also take away pages that the guest keeps. */
export interface Splits {
  count: number;
  /** Fewest pages that the guest changed within one split mapping: the grain of its unmaps. */
  grain: number;
}

/**
 * What to take away and what to map so that `held` becomes `wanted` inside the dirty ranges and nothing changes outside.
 * A mapping whose pages inside the ranges are all as wanted stays. False when a list reached its limit.
 */
export function difference(dirty: DirtyRanges, lists: DifferenceLists, splits: Splits): boolean {
  const { held, removals, remnants, additions, kept } = lists;
  removals.clear();
  remnants.clear();
  additions.clear();
  kept.clear();
  splits.count = 0;
  splits.grain = Number.POSITIVE_INFINITY;
  let range = 0;
  let wantedFrom = 0;
  for (let h = 0; h < held.length; h++) {
    const first = held.iova[h];
    const end = first + held.pages[h];
    while (range < dirty.count && dirty.last(range) < first) range++;
    while (wantedFrom < lists.wanted.length && endOf(lists.wanted, wantedFrom) <= first) wantedFrom++;
    const inside = pagesInside(dirty, range, first, end);
    const same = pagesUnchanged(held, h, dirty, range, lists.wanted, wantedFrom);
    if (same === inside) {
      if (!copyRun(held, h, first, end, kept)) return false;
      continue;
    }
    if (!copyRun(held, h, first, end, removals)) return false;
    if (inside < end - first || same > 0) {
      splits.count++;
      splits.grain = Math.min(splits.grain, inside - same);
    }
    if (!pushRemnants(held, h, dirty, range, remnants)) return false;
  }
  return pushAdditions(lists.wanted, kept, additions);
}

function endOf(list: RunList, at: number): number {
  return list.iova[at] + list.pages[at];
}

/** Appends [first, end) of run `at` to another list. */
function copyRun(from: RunList, at: number, first: number, end: number, to: RunList): boolean {
  return to.push(first, from.gpa[at] + (first - from.iova[at]), end - first, from.permission[at]);
}

function pagesInside(dirty: DirtyRanges, range: number, first: number, end: number): number {
  let pages = 0;
  for (let r = range; r < dirty.count && dirty.first(r) < end; r++) {
    pages += Math.min(dirty.last(r) + 1, end) - Math.max(dirty.first(r), first);
  }
  return pages;
}

/** Pages of held run `h` inside the dirty ranges that `wanted` maps just so. */
function pagesUnchanged(held: RunList, h: number, dirty: DirtyRanges, range: number, wanted: RunList, from: number): number {
  const first = held.iova[h];
  const end = endOf(held, h);
  let pages = 0;
  let w = from;
  for (let r = range; r < dirty.count && dirty.first(r) < end; r++) {
    const start = Math.max(dirty.first(r), first);
    const stop = Math.min(dirty.last(r) + 1, end);
    while (w < wanted.length && endOf(wanted, w) <= start) w++;
    for (; w < wanted.length && wanted.iova[w] < stop; w++) {
      const overlap = Math.min(endOf(wanted, w), stop) - Math.max(wanted.iova[w], start);
      const sameTarget = wanted.gpa[w] - wanted.iova[w] === held.gpa[h] - first;
      if (sameTarget && wanted.permission[w] === held.permission[h]) pages += overlap;
      if (endOf(wanted, w) > stop) break;
    }
  }
  return pages;
}

function pushRemnants(held: RunList, h: number, dirty: DirtyRanges, range: number, remnants: RunList): boolean {
  const end = endOf(held, h);
  let at = held.iova[h];
  for (let r = range; r < dirty.count && dirty.first(r) < end; r++) {
    if (dirty.first(r) > at && !copyRun(held, h, at, dirty.first(r), remnants)) return false;
    at = Math.max(at, dirty.last(r) + 1);
  }
  return at >= end || copyRun(held, h, at, end, remnants);
}

/** Additions: `wanted` without what the kept mappings cover. */
function pushAdditions(wanted: RunList, kept: RunList, additions: RunList): boolean {
  let k = 0;
  for (let w = 0; w < wanted.length; w++) {
    const end = endOf(wanted, w);
    let at = wanted.iova[w];
    while (k < kept.length && endOf(kept, k) <= at) k++;
    for (let cover = k; cover < kept.length && kept.iova[cover] < end; cover++) {
      if (kept.iova[cover] > at && !copyRun(wanted, w, at, kept.iova[cover], additions)) return false;
      at = endOf(kept, cover);
    }
    if (at < end && !copyRun(wanted, w, at, end, additions)) return false;
  }
  return true;
}
