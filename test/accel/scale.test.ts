import { afterAll, describe, expect, test } from 'vitest';
import { type ScaleGuest, scaleGuest, scaleTargets } from '../../bench/scale/guests.ts';
import { WorkCounter } from '../../bench/scale/work.ts';

/** What one guest operation costs does not grow with what there is: counted in blocks of code that are entered, the simulated kernel's included. */

const MANY = 4096;
const FEW = 1;
const GROWTH = 1.5;
/** The simulated kernel's search in ordered lists: it grows with the logarithm, and an attach searches often. */
const SEARCH = '/spans.ts';

const counter = new WorkCounter();
afterAll(() => counter.close());

describe.each(scaleTargets)(`%s with ${FEW} and ${MANY} address spaces`, (target) => {
  const guests = [FEW, MANY].map((spaces) => ({ spaces, guest: scaleGuest(target, spaces) }));

  /** Work of an operation on the last space, by number of spaces. */
  function compare(operation: (guest: ScaleGuest, space: number) => void, except?: string): number {
    const [few, many] = guests.map(({ guest, spaces }) => {
      operation(guest, spaces - 1);
      // The lesser of some: what is done once in many operations is no growth.
      return Math.min(...[1, 2, 3].map(() => counter.of(() => operation(guest, spaces - 1), except)));
    });
    expect(few).toBeGreaterThan(10);
    return many / few;
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

  test.runIf(guests[0].guest.move !== null)('an endpoint that is moved to another address space and back', () => {
    const growth = compare((guest, space) => {
      guest.move!(space, true);
      guest.move!(space, false);
    }, SEARCH);
    expect(growth).toBeLessThanOrEqual(GROWTH);
  });
});
