import { fc } from '@fast-check/vitest';
import { afterEach, describe, expect, test, vi } from 'vitest';
import { IommufdDevice } from '../../src/host/iommufd/device.ts';
import { vtd } from '../../src/host/sim/index.ts';
import { riscvSubject } from '../target/riscv/subject.ts';
import type { TargetSubject } from '../target/suite.ts';
import { scalableSubject } from '../target/vtd/subject.ts';
import { EquivalentGuest, type HostHardware } from './equivalence.ts';

/* Whether the suite with PASIDs notices one attach, or one detach, of a PASID that the driver forgets. */

const PROGRAMS = 8;
const OCCURRENCES = 3;
const PLAIN: HostHardware = { host: 'iommufd', nesting: () => null, pasidLog2: 8 };
const VTD: HostHardware = { host: 'iommufd', nesting: () => vtd(), pasidLog2: 8 };

type Call = 'attachPasid' | 'detachPasid';

afterEach(() => vi.restoreAllMocks());

/** The nth call is answered as if it had been done. Answers whether it came to pass. */
function omit(call: Call, nth: number): () => boolean {
  const done = IommufdDevice.prototype[call] as (...parts: unknown[]) => number;
  let left = nth;
  vi.spyOn(IommufdDevice.prototype, call).mockImplementation(function (this: IommufdDevice, ...parts: unknown[]) {
    return --left === 0 ? 0 : done.apply(this, parts);
  } as IommufdDevice[Call]);
  return () => left <= 0;
}

function outcome<Step>(
  subject: TargetSubject<Step>,
  path: string,
  hardware: HostHardware,
  program: readonly Step[],
  call: Call,
  nth: number,
) {
  const omitted = omit(call, nth);
  let fails = false;
  try {
    const guest = new EquivalentGuest(subject, hardware, path);
    for (const step of [...subject.mapping, ...(subject.processes ?? []), ...program, ...subject.mapping]) {
      guest.run(step);
      guest.check();
    }
  } catch {
    fails = true;
  } finally {
    vi.restoreAllMocks();
  }
  return { fails, omitted: omitted() };
}

function mutations<Step>(subject: TargetSubject<Step>, path: string, hardware: HostHardware): void {
  describe(`${subject.name} with PASIDs on ${path}: the equivalence suite fails`, () => {
    const programs = fc.sample(fc.array(subject.step, { minLength: 10, maxLength: 10 }), { seed: 13, numRuns: PROGRAMS });

    test('not at all when nothing is left out', () => {
      expect(outcome(subject, path, hardware, programs[0], 'attachPasid', Number.POSITIVE_INFINITY).fails).toBe(false);
    });

    test.each<Call>(['attachPasid', 'detachPasid'])('when one %s is left out', (call) => {
      let [omitted, found] = [0, 0];
      for (const program of programs) {
        for (let nth = 1; nth <= OCCURRENCES && found === 0; nth++) {
          const result = outcome(subject, path, hardware, program, call, nth);
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

mutations(riscvSubject, 'shadow', PLAIN);
mutations(riscvSubject, 'user-owned', VTD);
mutations(scalableSubject, 'auto', VTD);
