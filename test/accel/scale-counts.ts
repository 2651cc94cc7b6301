import { type ScaleGuest, type ScaleTarget, scaleGuest } from '../../bench/scale/guests.ts';
import { SCALE_TARGETS } from '../../bench/scale/parts.ts';
import { SEARCH, type WorkCounter } from '../../bench/scale/work.ts';

/** Blocks of each operation on the last space. */
export interface Counts {
  readonly target: ScaleTarget;
  readonly 'a map and an unmap': number;
  readonly 'a device that goes and comes': number;
  /** null: its guest cannot. */
  readonly 'an endpoint that is moved to another address space and back': number | null;
}

/** Of each target, for each number of spaces. @throws Error when an operation has no effect */
export function count(counter: WorkCounter, ...spaces: readonly string[]): readonly (readonly Counts[])[] {
  return SCALE_TARGETS.map((target) => spaces.map((number) => countsOf(counter, target, Number(number))));
}

function countsOf(counter: WorkCounter, target: ScaleTarget, spaces: number): Counts {
  const guest = scaleGuest(target, spaces);
  const last = spaces - 1;
  // The lesser of some: what is done once in many operations is no growth.
  const least = (operation: () => void) => {
    operation();
    return counter.least(3, operation, SEARCH);
  };
  const { move } = guest;
  const moved = () => {
    move!(last, true);
    move!(last, false);
  };
  return {
    target,
    'a map and an unmap': least(() => mapAndUnmap(guest, last)),
    'a device that goes and comes': least(() => guest.replug(last)),
    'an endpoint that is moved to another address space and back': move === null ? null : least(moved),
  };
}

function mapAndUnmap({ operate, kernel }: ScaleGuest, space: number): void {
  for (const map of [true, false]) {
    operate(space, map);
    if (kernel.devices[space].hostPfn(5, 2) >= 0 !== map) throw new Error(`the page is ${map ? 'not ' : ''}mapped`);
  }
}
