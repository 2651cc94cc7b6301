import { describe, expect, test } from 'vitest';
import { errno } from '../../src/host/errno.ts';
import { amdSubject } from '../target/amd/subject.ts';
import { riscvSubject } from '../target/riscv/subject.ts';
import { smmuSubject } from '../target/smmuv3/subject.ts';
import type { TargetSubject } from '../target/suite.ts';
import { scalableSubject } from '../target/vtd/subject.ts';
import { EquivalentGuest, hardwares } from './equivalence.ts';

/* What a target tells of an endpoint and what it says when it is asked for its stage are one thing. */

const QUEUE = 'iommufd, SMMUv3 with a command queue';

test('what a path refused is blocked for the path that comes after it, though the guest asks for bypass', () => {
  const guest = new EquivalentGuest(smmuSubject, hardwares[QUEUE], 'user-owned-queue');
  for (const step of smmuSubject.mapping) guest.run(step);
  const [endpoint] = guest.endpoints;
  guest.run({ do: 'stream', stream: endpoint, config: 0, first: 0, second: 0, spoilt: 0 });
  const aborted = guest.machine.save();
  // Reset, all streams bypass; the device cannot get there.
  guest.kernel.hooks.fail({ kind: 'VFIO_DEVICE_ATTACH_IOMMUFD_PT', nth: 1, times: Number.POSITIVE_INFINITY, errno: errno.ENOMEM });
  guest.fixture.target.reset();
  expect(guest.pathOf(endpoint)).toBe('blocked');
  guest.kernel.hooks.reset();
  guest.machine.load(aborted);
  guest.machine.changePath('nested-queue');
  guest.checkNothingStale();
  expect(guest.hardware(guest.kernel.devices[0]).every((page) => page === null)).toBe(true);
  guest.close();
});

describe('an endpoint that its target knows no more reaches nothing', () => {
  const removed = <Step>(subject: TargetSubject<Step>, hardware: string, path: string) =>
    test(`${subject.name}, ${hardware}, ${path}`, () => {
      const guest = new EquivalentGuest(subject, hardwares[hardware], path);
      for (const step of subject.mapping) guest.run(step);
      const [endpoint] = guest.endpoints;
      const reached = () => guest.hardware(guest.kernel.devices[0]).filter((page) => page !== null).length;
      expect(reached()).toBeGreaterThan(0);
      (guest.fixture.target as unknown as { removeEndpoint(endpoint: number): void }).removeEndpoint(endpoint);
      expect(reached()).toBe(0);
      guest.close();
    });
  removed(smmuSubject, 'iommufd, SMMUv3', 'nested');
  removed(smmuSubject, QUEUE, 'nested-queue');
  removed(smmuSubject, QUEUE, 'shadow');
  removed(scalableSubject, 'iommufd, VT-d', 'auto');
  removed(riscvSubject, 'iommufd, VT-d', 'user-owned');
  removed(amdSubject, 'iommufd, AMD', 'shadow');
});
