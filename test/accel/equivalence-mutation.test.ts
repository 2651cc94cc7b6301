import { fc } from '@fast-check/vitest';
import { afterEach, describe, expect, test, vi } from 'vitest';
import { CommandQueue } from '../../src/host/iommufd/tegra241.ts';
import { GuestMemory } from '../../src/memory/guest-memory.ts';
import { smmuSubject } from '../target/smmuv3/subject.ts';
import { spaprSubject } from '../target/spapr/subject.ts';
import type { TargetSubject } from '../target/suite.ts';
import { virtioSubjects } from '../target/virtio-iommu/subject.ts';
import { legacySubject, scalableSubject } from '../target/vtd/subject.ts';
import { EquivalentGuest, type Following, hardwares } from './equivalence.ts';

/** Stores into tables of ours, beside the calls of the simulated kernel. */
const TABLE_STORE = 'table store';
/** Invalidations by stores into the ring that the hardware reads. */
const QUEUED = 'queued command';
/** Arm IHI 0070, 4.1.1. */
const CMD_SYNC = 0x46;
/** Programs that are tried for each kind, and how many of its calls are left out in them, one at a time. */
const PROGRAMS = 12;
const OCCURRENCES = 6;

afterEach(() => vi.restoreAllMocks());

/** The nth store of a run into memory that is not the guest's does not happen. Answers whether it came to pass. */
function omitStore(nth: number, guestMemory: () => GuestMemory | null): () => boolean {
  const { storeRun64 } = GuestMemory.prototype;
  let left = nth;
  vi.spyOn(GuestMemory.prototype, 'storeRun64').mockImplementation(function (this: GuestMemory, hi, lo, from, count) {
    const memory = guestMemory();
    if (memory !== null && this !== memory && --left === 0) return 0;
    return storeRun64.call(this, hi, lo, from, count);
  });
  return () => left <= 0;
}

/**
 * The same of the nth command that is to be put into a ring, and of those that repeat it until the next CMD_SYNC, which itself is not counted: a nested
 * guest's VMIDs are one to the hardware, so what the subject says of each of them is the same command three times in the ring.
 */
function omitQueued(nth: number): () => boolean {
  const { add } = CommandQueue.prototype;
  let seen = 0;
  let omitted = '';
  vi.spyOn(CommandQueue.prototype, 'add').mockImplementation(function (this: CommandQueue, word0, word1, word2, word3) {
    const command = [word0, word1, word2, word3].join();
    if ((word0 & 0xff) === CMD_SYNC) omitted = '';
    else if (++seen === nth) omitted = command;
    return command === omitted || add.call(this, word0, word1, word2, word3);
  });
  return () => seen >= nth;
}

/** Runs a program; whether the suite's body fails, and whether the omission came to pass. */
function outcome<Step>(
  subject: TargetSubject<Step>,
  program: readonly Step[],
  where: readonly [path: string, hardware: string, following: Following],
  kind: string,
  nth: number,
) {
  let guest: EquivalentGuest<Step> | null = null;
  const stores: Readonly<Record<string, () => () => boolean>> = {
    [TABLE_STORE]: () => omitStore(nth, () => guest?.fixture.memory ?? null),
    [QUEUED]: () => omitQueued(nth),
  };
  const storeOmitted = stores[kind]?.() ?? null;
  try {
    guest = new EquivalentGuest(subject, hardwares[where[1]], where[0], where[2]);
    const callOmitted = storeOmitted ?? guest.kernel.hooks.omit(kind, nth);
    let fails = false;
    try {
      for (const step of [...subject.mapping, ...program, ...subject.mapping]) {
        guest.run(step);
        guest.check();
      }
    } catch {
      fails = true;
    }
    return { fails, omitted: callOmitted() };
  } finally {
    vi.restoreAllMocks();
  }
}

function mutations<Step>(
  subject: TargetSubject<Step>,
  path: string,
  hardware: string,
  kinds: readonly string[],
  following: Following = 'announced',
): void {
  describe(`${subject.name} on ${path}, ${following}, ${hardware}: the equivalence suite fails`, () => {
    const programs = fc.sample(fc.array(subject.step, { minLength: 10, maxLength: 10 }), { seed: 13, numRuns: PROGRAMS });

    test('not at all when nothing is left out', () => {
      for (const program of programs.slice(0, 4))
        expect(outcome(subject, program, [path, hardware, following], 'nothing', 1).fails).toBe(false);
    });

    test.each(kinds)('when one %s is left out', (kind) => {
      let [omitted, found] = [0, 0];
      for (const program of programs) {
        for (let nth = 1; nth <= OCCURRENCES; nth++) {
          const result = outcome(subject, program, [path, hardware, following], kind, nth);
          if (!result.omitted) break;
          omitted++;
          if (result.fails) found++;
        }
        if (found > 0) break;
      }
      expect(omitted, 'the programs make none').toBeGreaterThan(0);
      expect(found).toBeGreaterThan(0);
    });
  });
}

const ATTACH = 'VFIO_DEVICE_ATTACH_IOMMUFD_PT';
const DETACH = 'VFIO_DEVICE_DETACH_IOMMUFD_PT';
const INVALIDATE = 'IOMMU_HWPT_INVALIDATE';
const QUEUE = 'iommufd, SMMUv3 with a command queue';

mutations(spaprSubject, 'shadow', 'type1, plain hardware', ['VFIO_IOMMU_MAP_DMA', 'VFIO_IOMMU_UNMAP_DMA']);
mutations(legacySubject, 'shadow', 'iommufd, plain hardware', ['IOMMU_IOAS_MAP', 'IOMMU_IOAS_UNMAP', 'IOMMU_IOAS_COPY', ATTACH]);
mutations(virtioSubjects[0], 'user-owned', 'iommufd, VT-d', [TABLE_STORE, INVALIDATE, ATTACH]);
mutations(smmuSubject, 'user-owned', 'iommufd, SMMUv3', [TABLE_STORE, INVALIDATE, ATTACH, DETACH]);
mutations(scalableSubject, 'auto', 'iommufd, VT-d', [INVALIDATE, ATTACH]);
mutations(smmuSubject, 'user-owned-queue', QUEUE, [QUEUED, TABLE_STORE, ATTACH, DETACH]);
mutations(smmuSubject, 'nested', 'iommufd, SMMUv3', [INVALIDATE, ATTACH]);
mutations(smmuSubject, 'nested-queue', QUEUE, [QUEUED, ATTACH]);
mutations(smmuSubject, 'user-owned', 'iommufd, SMMUv3', [TABLE_STORE, INVALIDATE, ATTACH], 'on demand');
mutations(smmuSubject, 'shadow', 'iommufd, VT-d', ['IOMMU_IOAS_MAP', 'IOMMU_IOAS_UNMAP', 'read', 'write'], 'on demand');
