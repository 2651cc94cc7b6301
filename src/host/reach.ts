import type { IovaRange } from './host.ts';

/** The first of the ranges that begins below the lowest or ends above the highest page of the apertures; what they leave out in between does not count. */
export function outOfReach(apertures: readonly IovaRange[], ranges: readonly IovaRange[]): IovaRange | undefined {
  const lowest = apertures.reduce((low, { first }) => Math.min(low, first), Number.POSITIVE_INFINITY);
  const highest = apertures.reduce((high, { last }) => Math.max(high, last), -1);
  return ranges.find(({ first, last }) => first < lowest || last > highest);
}
