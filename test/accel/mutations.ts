import { fc } from '@fast-check/vitest';
import { describe, expect, test, vi } from 'vitest';
import { errno } from '../../src/host/errno.ts';
import { IommufdDevice } from '../../src/host/iommufd/device.ts';
import { CommandQueue } from '../../src/host/iommufd/tegra241.ts';
import { GuestMemory } from '../../src/memory/guest-memory.ts';
import type { TargetSubject } from '../target/suite.ts';
import { EquivalentGuest, everyHardware, type Following } from './equivalence.ts';

/** Stores into tables of ours, beside the calls of the simulated kernel. */
export const TABLE_STORE = 'table store';
/** Invalidations by stores into the ring that the hardware reads. */
export const QUEUED = 'queued command';
/** Arm IHI 0070, 4.1.1. */
const CMD_SYNC = 0x46;
/** Calls of the driver's, of a PASID, which the kernel knows as those of a device. */
export const ATTACH_PASID = 'attachPasid';
export const DETACH_PASID = 'detachPasid';
/** Programs that are tried for each kind, and how many of its calls are left out in them, one at a time. */
const PROGRAMS = 12;
const OCCURRENCES = 6;

/** The nth store of a run into memory that is not the guest's does not happen. Answers whether it came to pass. */
function omitStore(nth: number, guestMemory: () => GuestMemory | null): () => boolean {
  const { loadRun64, replaceAlike64, storeRun64 } = GuestMemory.prototype;
  let left = nth;
  vi.spyOn(GuestMemory.prototype, 'replaceAlike64').mockImplementation(function (this: GuestMemory, hi, lo, bits, most, value) {
    const memory = guestMemory();
    const before = new BigUint64Array(most);
    const omitted = memory !== null && this !== memory && loadRun64.call(this, hi, lo, before, most) === 0 && --left === 0;
    const done = replaceAlike64.call(this, hi, lo, bits, most, value);
    if (omitted) storeRun64.call(this, hi, lo, before, most);
    return done;
  });
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

/** The nth call of the driver's is answered as if it had been done. Answers whether it came to pass. */
function omitMethod(call: typeof ATTACH_PASID | typeof DETACH_PASID, nth: number): () => boolean {
  const done = IommufdDevice.prototype[call] as (...parts: unknown[]) => number;
  let left = nth;
  vi.spyOn(IommufdDevice.prototype, call).mockImplementation(function (this: IommufdDevice, ...parts: unknown[]) {
    return --left === 0 ? 0 : done.apply(this, parts);
  } as IommufdDevice[typeof call]);
  return () => left <= 0;
}

/** Runs a program; with what the suite's body fails, and whether the omission came to pass. */
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
    [ATTACH_PASID]: () => omitMethod(ATTACH_PASID, nth),
    [DETACH_PASID]: () => omitMethod(DETACH_PASID, nth),
  };
  const storeOmitted = stores[kind]?.() ?? null;
  try {
    guest = new EquivalentGuest(subject, everyHardware[where[1]], where[0], where[2]);
    const callOmitted = storeOmitted ?? guest.kernel.hooks.omit(kind, nth);
    let fails = '';
    try {
      const processes = everyHardware[where[1]].pasidLog2 === undefined ? [] : (subject.processes ?? []);
      for (const step of [...subject.mapping, ...processes, ...subject.unmapping, ...program, ...subject.mapping]) {
        guest.run(step);
        guest.check();
        // No call was to fail, but for windows beyond what the host can map: that a later one is refused shows what was left out, though the device is
        // blocked by name.
        const { hostError } = guest.machine;
        if (hostError?.operation.startsWith('VFIO_') && hostError.errno !== errno.ERANGE) throw hostError;
      }
    } catch (error) {
      fails = (error as Error).message;
    }
    return { fails, omitted: callOmitted() };
  } finally {
    vi.restoreAllMocks();
  }
}

/**
 * Whether the suite fails with one of each kind left out, of a guest on a path over hardware of a name. `seen` is what the failure has to say.
 */
export function mutations<Step>(
  subject: TargetSubject<Step>,
  path: string,
  hardware: string,
  kinds: readonly string[],
  following: Following = 'announced',
  seen = /./,
): void {
  describe(`${subject.name} on ${path}, ${following}, ${hardware}: the equivalence suite fails`, () => {
    const programs = fc.sample(fc.array(subject.step, { minLength: 10, maxLength: 10 }), { seed: 13, numRuns: PROGRAMS });

    test('not at all when nothing is left out', () => {
      for (const program of programs.slice(0, 4))
        expect(outcome(subject, program, [path, hardware, following], 'nothing', 1).fails).toBe('');
    });

    test.each(kinds)('when one %s is left out', (kind) => {
      let [omitted, found] = [0, 0];
      for (const program of programs) {
        for (let nth = 1; nth <= OCCURRENCES; nth++) {
          const result = outcome(subject, program, [path, hardware, following], kind, nth);
          if (!result.omitted) break;
          omitted++;
          if (seen.test(result.fails)) found++;
        }
        if (found > 0) break;
      }
      expect(omitted, 'the programs make none').toBeGreaterThan(0);
      expect(found).toBeGreaterThan(0);
    });
  });
}
