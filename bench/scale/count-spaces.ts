import { type ScaleTarget, scaleGuest } from './guests.ts';
import type { WorkCounter } from './work.ts';

/** Blocks of a map or an unmap of one page on the last of so many spaces of a target. */
export function count(counter: WorkCounter, target: string, spaces: string): number {
  const last = Number(spaces) - 1;
  const { operate } = scaleGuest(target as ScaleTarget, Number(spaces));
  const both = () => {
    operate(last, true);
    operate(last, false);
  };
  both();
  return counter.least(3, both) / 2;
}
