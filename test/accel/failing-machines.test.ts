import { fc, test } from '@fast-check/vitest';
import { describe, expect, test as vitestTest } from 'vitest';
import { errno, HostError } from '../../src/host/errno.ts';
import { reaching } from '../reaching.ts';
import { amdSubject } from '../target/amd/subject.ts';
import { riscvSubject } from '../target/riscv/subject.ts';
import { smmuSubject } from '../target/smmuv3/subject.ts';
import { spaprSubject } from '../target/spapr/subject.ts';
import type { TargetSubject } from '../target/suite.ts';
import { virtioSubjects } from '../target/virtio-iommu/subject.ts';
import { scalableSubject } from '../target/vtd/subject.ts';
import { zpciSubject } from '../target/zpci/subject.ts';
import { EquivalentGuest, hardwares } from './equivalence.ts';

/*
 * What an embedder does with a machine whose host fails, once, several times, or from one call on as a device that dies: no DMA reaches what the guest has
 * taken away or what has left, and what is said to be blocked is.
 */

/** A virtqueue's driver would have to begin anew after the first two. */
const EVENTS = ['reset', 'load', 'save', 'reload', 'path', 'ram', 'remove', 'pass through'] as const;
const WITH_DRIVER = EVENTS.slice(2);
const failure = fc.record({
  nth: fc.integer({ min: 1, max: 12 }),
  times: fc.constantFrom(1, 2, 5, Number.POSITIVE_INFINITY),
  errno: fc.constantFrom(errno.ENOMEM, errno.EIO, errno.ENODEV, errno.EINVAL),
});

class FailingMachine<Step> {
  readonly guest: EquivalentGuest<Step>;
  readonly #isIommufd: boolean;
  readonly #paths: readonly string[];
  #saved;
  #wished = 0;

  constructor(subject: TargetSubject<Step>, hardware: string, paths: readonly string[]) {
    this.guest = new EquivalentGuest(subject, hardwares[hardware], 'auto');
    this.#isIommufd = hardwares[hardware].host === 'iommufd';
    this.#paths = paths;
    for (const step of subject.mapping) this.guest.run(step);
    this.#saved = this.guest.machine.save();
  }

  /** False: the host did not let it. */
  run(event: (typeof EVENTS)[number]): boolean {
    const { guest } = this;
    const { machine, fixture, kernel } = guest;
    const [endpoint] = guest.endpoints;
    const isThere = machine.state.endpoints[endpoint] !== undefined;
    try {
      if (event === 'save' && isThere) this.#saved = machine.save();
      if (event === 'load' && isThere) machine.load(this.#saved);
      if (event === 'reload') machine.load(machine.save());
      if (event === 'reset') fixture.target.reset();
      if (event === 'path') machine.changePath(this.#paths[this.#wished++ % this.#paths.length]);
      if (event === 'ram') guest.moveRam();
      if (event === 'remove' && isThere) machine.remove(endpoint);
      if (event === 'pass through' && !isThere) {
        const { path, group, name } = kernel.devices[fixture.endpoints.indexOf(endpoint)];
        machine.passThrough(endpoint, this.#isIommufd ? path : `/dev/vfio/${group.number}#${name}`);
      }
      return true;
    } catch (error) {
      // A target knows of no host but that it did not follow.
      const isRefused =
        error instanceof HostError || (event === 'reset' && /the host (could|does) not follow/.test((error as Error).message));
      if (isRefused) return false;
      throw error;
    }
  }
}

const ONE_CALL = { do: 'fail', failure: { nth: 1, times: 1, errno: errno.EIO } } as const;

function failing<Step>(
  subject: TargetSubject<Step>,
  hardware: string,
  paths: readonly string[],
  events: readonly (typeof EVENTS)[number][] = EVENTS,
): void {
  const reached = reaching(`${subject.name}, ${hardware}`, ...events, 'a failed call');
  const step = fc.record({ do: fc.constant('step' as const), step: subject.step });
  const event = fc.record({ do: fc.constantFrom(...events) });
  const fails = fc.record({ do: fc.constant('fail' as const), failure });
  const program = fc.array(fc.oneof({ arbitrary: step, weight: 3 }, { arbitrary: event, weight: 5 }, { arbitrary: fails, weight: 2 }), {
    minLength: 12,
    maxLength: 24,
  });

  test.prop([program], { numRuns: 4 })(`${subject.name}, ${hardware}`, (steps) => {
    reached();
    const machine = new FailingMachine(subject, hardware, paths);
    const { guest } = machine;
    const { hooks } = guest.kernel;
    hooks.observe({ after: (_, result) => void (result < 0 && reached('a failed call')) });
    // Each of them is done at least once, and once after a call that fails.
    const all = events.map((name) => ({ do: name }));
    for (const one of [...steps, ...all, ...all.flatMap((event) => [ONE_CALL, event])]) {
      if (one.do === 'step') guest.run(one.step);
      else if (one.do === 'fail') hooks.fail(one.failure);
      else if (machine.run(one.do)) reached(one.do);
      guest.checkNothingStale();
      guest.checkBlocked();
    }
    hooks.reset();
    machine.run('pass through');
    for (const each of subject.mapping) guest.run(each);
    guest.checkNothingStale();
    guest.checkBlocked();
    guest.close();
    expect(guest.reachesNothing).toBe(true);
  });
}

const QUEUE = 'iommufd, SMMUv3 with a command queue';

describe('a machine whose host fails', () => {
  failing(virtioSubjects[0], 'type1, plain hardware', ['shadow', 'auto'], WITH_DRIVER);
  failing(spaprSubject, 'sPAPR TCE', ['shadow', 'auto']);
  failing(zpciSubject, 'iommufd, plain hardware', ['shadow', 'auto']);
  failing(amdSubject, 'iommufd, AMD', ['shadow', 'auto']);
  failing(riscvSubject, 'iommufd, VT-d', ['user-owned', 'shadow', 'auto']);
  failing(scalableSubject, 'iommufd, VT-d', ['user-owned', 'shadow', 'auto']);
  failing(smmuSubject, 'iommufd, SMMUv3', ['user-owned', 'shadow', 'auto']);
  failing(smmuSubject, QUEUE, ['user-owned-queue', 'nested-queue', 'shadow', 'auto']);
});

vitestTest('a guest that resets its virtio-iommu on a host on which nothing goes any more: no device reaches what it had', () => {
  const [subject] = virtioSubjects;
  for (const hardware of ['type1, plain hardware', 'iommufd, plain hardware', 'iommufd, VT-d']) {
    const guest = new EquivalentGuest(subject, hardwares[hardware], 'auto');
    for (const step of subject.mapping) guest.run(step);
    expect(guest.check()).toBeGreaterThan(0);
    guest.kernel.hooks.fail({ nth: 1, times: Number.POSITIVE_INFINITY, errno: errno.ENOMEM });
    guest.run('restart');
    expect(guest.fixture.target.spaceOf(guest.endpoints[0])).toBeNull();
    guest.checkNothingStale();
    guest.checkBlocked();
    guest.kernel.hooks.reset();
    guest.close();
  }
});

vitestTest('a device that neither could stay on a new path nor was let off it goes back to the nested one, and not only in name', () => {
  const guest = new EquivalentGuest(smmuSubject, hardwares['iommufd, SMMUv3'], 'auto');
  for (const step of smmuSubject.mapping) guest.run(step);
  guest.fixture.target.reset();
  const [endpoint] = guest.endpoints;
  expect(guest.pathOf(endpoint)).toBe('nested');
  guest.kernel.hooks.fail({ kind: 'IOMMU_IOAS_IOVA_RANGES', nth: 3, errno: errno.ENOMEM });
  guest.kernel.hooks.fail({ kind: 'VFIO_DEVICE_DETACH_IOMMUFD_PT', nth: 1, errno: errno.ENOMEM });
  expect(() => guest.machine.changePath('shadow')).toThrow(/IOVA_RANGES/);
  expect(guest.pathOf(endpoint)).toBe('nested');
  // What it was left in by the way has the old RAM.
  guest.moveRam();
  expect(guest.check()).toBeGreaterThan(0);
  guest.close();
});
