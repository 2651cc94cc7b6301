import { fc, test } from '@fast-check/vitest';
import { describe, expect } from 'vitest';
import { errno } from '../../src/host/errno.ts';
import { amdSubject } from '../target/amd/subject.ts';
import { riscvSubject } from '../target/riscv/subject.ts';
import { smmuSubject } from '../target/smmuv3/subject.ts';
import { spaprSubject } from '../target/spapr/subject.ts';
import type { TargetSubject } from '../target/suite.ts';
import { scalableSubject } from '../target/vtd/subject.ts';
import { EquivalentGuest, hardwares } from './equivalence.ts';

const QUEUE = 'iommufd, SMMUv3 with a command queue';
const names = fc.constantFrom('auto', 'shadow', 'user-owned', 'shadow', 'user-owned', 'user-owned-queue');

/** As `Machine.changePath`; false: some space stays where it was. */
function changed(guest: EquivalentGuest<unknown>, path: string): boolean {
  try {
    guest.machine.changePath(path);
    return true;
  } catch {
    return false;
  }
}

function changing<Step>(subject: TargetSubject<Step>, hardware: string): void {
  const program = fc.array(fc.tuple(subject.step, names), { minLength: 3, maxLength: 8 });

  test.prop([program], { numRuns: 4 })(
    `${subject.name}, ${hardware}: after every host call of a change each DMA has what it had before, and what software has`,
    (steps) => {
      const guest = new EquivalentGuest(subject, hardwares[hardware], 'auto');
      for (const step of subject.mapping) guest.run(step);
      let pages = guest.check();
      for (const [step, path] of steps) {
        guest.run(step);
        pages += guest.check();
        guest.touch();
        const before = guest.kernel.devices.map((device) => guest.hardware(device));
        // What no path took by the last wish may find one by this.
        const waiting = guest.fixture.endpoints.map((endpoint) => guest.pathOf(endpoint) === 'blocked');
        const dispose = guest.kernel.hooks.observe({
          after: () => {
            for (const [i, device] of guest.kernel.devices.entries())
              if (!waiting[i] && !sameButReadable(guest.hardware(device), before[i])) expect(guest.hardware(device)).toEqual(before[i]);
          },
        });
        if (changed(guest as EquivalentGuest<unknown>, path) && path !== 'auto')
          for (const endpoint of guest.fixture.endpoints)
            expect(guest.pathOf(endpoint)).toMatch(new RegExp(`^(${path}|blocked)(, watched)?$`));
        dispose();
        pages += guest.check();
      }
      for (const step of subject.mapping) guest.run(step);
      pages += guest.check();
      expect(pages).toBeGreaterThan(0);
      guest.close();
    },
  );

  test.prop([program, fc.integer({ min: 1, max: 12 }), fc.constantFrom(1, 2, 4)], { numRuns: 4 })(
    `${subject.name}, ${hardware}: calls of a change fail, and no DMA reaches what it must not`,
    (steps, nth, times) => {
      const guest = new EquivalentGuest(subject, hardwares[hardware], 'auto');
      for (const step of subject.mapping) guest.run(step);
      for (const [step, path] of steps) {
        guest.run(step);
        const dispose = guest.kernel.hooks.fail({ nth, times, errno: errno.ENOMEM });
        changed(guest as EquivalentGuest<unknown>, path);
        dispose();
        guest.checkNothingStale();
      }
      guest.close();
    },
  );
}

/** First stages of ours have no write-only pages. */
function sameButReadable(found: readonly (string | null)[], before: readonly (string | null)[]): boolean {
  return found.every((page, i) => page?.replace(/\/3$/, '/2') === before[i]?.replace(/\/3$/, '/2'));
}

describe('a path is changed while the guest runs', () => {
  changing(spaprSubject, 'iommufd, VT-d');
  changing(amdSubject, QUEUE);
  changing(riscvSubject, 'iommufd, SMMUv3');
  changing(scalableSubject, 'iommufd, VT-d');
  changing(smmuSubject, 'iommufd, SMMUv3');

  test('to one that does not exist or cannot serve: refused, and all stays as it was', () => {
    const guest = new EquivalentGuest(spaprSubject, hardwares['iommufd, plain hardware'], 'auto');
    for (const step of spaprSubject.mapping) guest.run(step);
    expect(() => guest.machine.changePath('teleport')).toThrow(RangeError);
    expect(() => guest.machine.changePath('user-owned')).toThrow(/takes first stages/);
    expect(guest.check()).toBeGreaterThan(0);
    expect(guest.pathOf(guest.fixture.endpoints[0])).toBe('shadow');
  });

  test('to one that takes the guest’s pass-through, after one that did not: it is no more told of as refused', () => {
    const guest = new EquivalentGuest(scalableSubject, hardwares['iommufd, VT-d'], 'auto');
    for (const step of scalableSubject.mapping) guest.run(step);
    const [endpoint] = guest.fixture.endpoints;
    expect(() => guest.machine.changePath('user-owned-queue')).toThrow(/no command queue/);
    guest.run({ do: 'entry', device: endpoint, second: -1, first: -1, wrong: 0n });
    expect(guest.machine.state.endpoints[endpoint]).toMatchObject({ path: 'blocked' });
    guest.machine.changePath('auto');
    expect(guest.machine.state.endpoints[endpoint]).toMatchObject({ path: 'nested', space: 'identity' });
    expect(guest.check()).toBeGreaterThan(0);
    guest.close();
  });
});
