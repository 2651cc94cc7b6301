import type { RunList } from '../run-list.ts';

/**
 * What is in one list of runs and not in the other, page by page: both ascend and overlap nothing within themselves. `visit` answers false to
 * end; false then.
 */
export function without(
  runs: RunList,
  other: RunList,
  visit: (iova: number, gpa: number, pages: number, permission: number) => boolean,
): boolean {
  let j = 0;
  for (let i = 0; i < runs.length; i++) {
    const end = runs.iova[i] + runs.pages[i];
    const delta = runs.gpa[i] - runs.iova[i];
    let next = runs.iova[i];
    while (j < other.length && other.iova[j] + other.pages[j] <= next) j++;
    for (let k = j; k < other.length && other.iova[k] < end; k++) {
      if (other.gpa[k] - other.iova[k] !== delta || other.permission[k] !== runs.permission[i]) continue;
      const from = Math.max(next, other.iova[k]);
      if (from > next && !visit(next, next + delta, from - next, runs.permission[i])) return false;
      next = Math.min(end, other.iova[k] + other.pages[k]);
    }
    if (next < end && !visit(next, next + delta, end - next, runs.permission[i])) return false;
  }
  return true;
}
