import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { type ScaleGuest, scaleGuest, scaleTargets } from '../../bench/scale/guests.ts';
import { WorkCounter } from '../../bench/scale/work.ts';

/** What one guest operation costs does not grow with what there is: counted in blocks of code that are entered, the simulated kernel's included. */

const FEW = 1;
/** The bench has 4,096 (`npm run bench -- scale`); what grows with them shows with a quarter. */
const MANY = 1024;
/** Blocks that an operation may enter more for each space that there is: whatever goes through all of them enters one, at least. */
const GROWTH = 0.5;
/** The simulated kernel's search in ordered lists: it grows with the logarithm, and an attach searches often. */
const SEARCH = '/spans.ts';

describe.each(scaleTargets)(`%s with ${FEW} and ${MANY} address spaces`, (target) => {
  let guests: { spaces: number; guest: ScaleGuest }[] = [];
  let counter: WorkCounter;
  // Who counts makes everything slow: so only once the guests are there, and no longer than for them.
  beforeAll(() => {
    guests = [FEW, MANY].map((spaces) => ({ spaces, guest: scaleGuest(target, spaces) }));
    counter = new WorkCounter();
  }, 300_000);
  afterAll(() => {
    counter.close();
    guests = [];
  });

  /** Blocks by which the work of an operation on the last space grows with each other space. */
  function compare(operation: (guest: ScaleGuest, space: number) => void, except?: string): number {
    const [least, most] = guests.map(({ guest, spaces }) => {
      operation(guest, spaces - 1);
      return counter.least(3, () => operation(guest, spaces - 1), except);
    });
    expect(least).toBeGreaterThan(10);
    return (most - least) / (MANY - FEW);
  }

  test('a map and an unmap', () => {
    const growth = compare((guest, space) => {
      guest.operate(space, true);
      expect(guest.kernel.devices[space].hostPfn(5, 2)).toBeGreaterThan(0);
      guest.operate(space, false);
      expect(guest.kernel.devices[space].hostPfn(5, 2)).toBeLessThan(0);
    });
    expect(growth).toBeLessThanOrEqual(GROWTH);
  });

  test('a device that goes and comes', () => {
    expect(compare((guest, space) => guest.replug(space), SEARCH)).toBeLessThanOrEqual(GROWTH);
  });

  test.runIf(scaleGuest(target, FEW).move !== null)('an endpoint that is moved to another address space and back', () => {
    const growth = compare((guest, space) => {
      guest.move!(space, true);
      guest.move!(space, false);
    }, SEARCH);
    expect(growth).toBeLessThanOrEqual(GROWTH);
  });
});
