import { fc, test } from '@fast-check/vitest';
import { describe, expect } from 'vitest';
import { errno } from '../../../src/host/errno.ts';
import { reaching } from '../../reaching.ts';
import type { SmmuMachine } from './smmuv3-machine.ts';
import type { VtdMachine } from './vtd-machine.ts';

/** A guest whose tables hardware walks, with two devices, whichever IOMMU it has. */
export interface RandomGuest<Step> {
  readonly machine: VtdMachine | SmmuMachine;
  run(step: Step): void;
  /** @throws when hardware and software have something else for a page of either device. */
  agrees(): void;
  /** The guest wants everything to be forgotten, and says anew where its devices are. */
  again(): void;
}

export interface RandomGuests<Step> {
  readonly steps: fc.Arbitrary<Step[]>;
  /** One step of each kind: the program that runs first. */
  readonly kinds: Step[];
  make(): RandomGuest<Step>;
  /** Checks the host calls of a step, of which none maps, unmaps or detaches. */
  readonly cost?: (calls: Readonly<Record<string, number>>, step: Step) => void;
  readonly runs: number;
  readonly failingRuns: number;
}

/** Random guests over hardware that forgets nothing by itself, host calls failing or not. */
export function randomGuests<Step extends { readonly do: string }>(name: string, guests: RandomGuests<Step>): void {
  const { steps, kinds, make, cost, runs, failingRuns } = guests;
  const named = [...new Set(kinds.map((step) => step.do))];

  describe(name, () => {
    const agreed = reaching(`${name}: agreement`, ...named, 'a page that a device reaches');
    test.prop([steps], { numRuns: runs, examples: [[kinds]] })(
      'random guests: hardware that forgets nothing by itself agrees after every completion, with no map, no unmap and no detach',
      (program) => {
        agreed();
        const guest = make();
        const { machine } = guest;
        for (const step of program) {
          machine.touch();
          machine.calls();
          guest.run(step);
          const calls = machine.calls();
          expect(calls).not.toHaveProperty('IOMMU_IOAS_MAP');
          expect(calls).not.toHaveProperty('IOMMU_IOAS_UNMAP');
          expect(calls).not.toHaveProperty('VFIO_DEVICE_DETACH_IOMMUFD_PT');
          cost?.(calls, step);
          guest.agrees();
          agreed(step.do);
          if (machine.hardware(0).some((page) => page !== null)) agreed('a page that a device reaches');
        }
        machine.machine.close();
        machine.host.close();
        expect(machine.kernel.live()).toMatchObject({ descriptors: 0, domains: 0, pinnedBytes: 0 });
      },
    );

    const failed = reaching(`${name}: failures`, 'a failed call', 'a step after it');
    const failures = [
      fc.integer({ min: 1, max: 12 }),
      fc.integer({ min: 1, max: 4 }),
      fc.constantFrom(errno.EIO, errno.ENOMEM, errno.EINVAL),
    ] as const;
    test.prop([steps, ...failures], { numRuns: failingRuns, examples: [[[...kinds, ...kinds], 1, 1, errno.EIO]] })(
      'host calls fail: nothing stale is reached, and the rest is mended by what the guest does next',
      (program, nth, count, code) => {
        failed();
        const guest = make();
        const { machine } = guest;
        let refused = 0;
        machine.kernel.hooks.observe({ after: (_, result) => void (result === -code && refused++) });
        for (let i = 0; i < count; i++) machine.kernel.hooks.fail({ nth: nth + i, errno: code });
        for (const step of program) {
          if (refused > 0) failed('a step after it');
          machine.touch();
          guest.run(step);
          for (const index of [0, 1]) {
            const meant = machine.software(index);
            machine.hardware(index).forEach((found, i) => void (found !== null && expect(found).toBe(meant[i])));
          }
        }
        failed('a failed call', refused);
        machine.kernel.hooks.reset();
        guest.again();
        machine.hostDevices.forEach(({ closed }, index) => {
          // One that could be neither moved nor detached was closed, and reaches nothing.
          const meant = machine.software(index);
          expect(machine.hardware(index)).toEqual(closed ? meant.map(() => null) : meant);
        });
      },
    );
  });
}
