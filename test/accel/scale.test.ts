import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { type ScaleGuest, type ScaleTarget, scaleGuest, scaleTargets } from '../../bench/scale/guests.ts';
import { WorkCounter } from '../../bench/scale/work.ts';

/** What one guest operation costs does not grow with what there is: counted in blocks of code that are entered, the simulated kernel's included. */

const FEW = 1;
/** The bench has 4,096 of each (`npm run bench -- scale`); what grew by one block a space would be seen with a quarter of them. */
const MANY: Readonly<Record<ScaleTarget, number>> = { spapr: 4096, 'virtio-iommu': 4096, riscv: 4096, vtd: 1024, amd: 1024, smmuv3: 1024 };
const GROWTH = 1.5;
/** The simulated kernel's search in ordered lists: it grows with the logarithm, and an attach searches often. */
const SEARCH = '/spans.ts';

describe.each(scaleTargets.map((target) => [target, MANY[target]] as const))(`%s with ${FEW} and %i address spaces`, (target, many) => {
  let guests: { spaces: number; guest: ScaleGuest }[] = [];
  let counter: WorkCounter;
  // Who counts makes everything slow: so only once the guests are there, and no longer than for them.
  beforeAll(() => {
    guests = [FEW, many].map((spaces) => ({ spaces, guest: scaleGuest(target, spaces) }));
    counter = new WorkCounter();
  }, 300_000);
  afterAll(() => {
    counter.close();
    guests = [];
  });

  /** Work of an operation on the last space, by number of spaces. */
  function compare(operation: (guest: ScaleGuest, space: number) => void, except?: string): number {
    const [least, most] = guests.map(({ guest, spaces }) => {
      operation(guest, spaces - 1);
      // The lesser of some: what is done once in many operations is no growth.
      return Math.min(...[1, 2, 3].map(() => counter.of(() => operation(guest, spaces - 1), except)));
    });
    expect(least).toBeGreaterThan(10);
    return most / least;
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
