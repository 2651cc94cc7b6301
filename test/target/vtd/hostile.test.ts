import { fc } from '@fast-check/vitest';
import { hostileMachines } from '../hostile-machine.ts';
import type { TargetFixture } from '../suite.ts';
import { contextGlobal, type Guest, iotlbGlobal, pasidGlobal, wait } from './guest.ts';
import { legacySubject, scalableSubject } from './subject.ts';

const driverOf = (fixture: TargetFixture<unknown>) => (fixture as unknown as { readonly guest: Guest }).guest;
const restart = (fixture: TargetFixture<unknown>) => driverOf(fixture).start();

/** Where the driver's tables lie. */
const table = fc.integer({ min: 16, max: 28 });
const tables = fc
  .record({
    in: table,
    first: fc.nat(511),
    count: fc.constantFrom(1, 4, 64, 512),
    to: fc.oneof(table, fc.nat(1100)),
    step: fc.constantFrom(0, 0, 1),
    flags: fc.constantFrom(3n, 7n, 7n, 0x83n, 0x87n, 0x803n, 1n, 0n),
  })
  .map(({ in: page, first, count, to, step, flags }) => (fixture: TargetFixture<unknown>) => {
    const guest = driverOf(fixture);
    for (let i = first; i < Math.min(512, first + count); i++)
      guest.store(page * 4096 + 8 * i, (BigInt(to + step * (i - first)) << 12n) | flags);
    guest.submit(contextGlobal, ...(guest.scalable ? [pasidGlobal] : []), iotlbGlobal, wait());
  });

hostileMachines({
  subject: legacySubject,
  restart,
  tables,
  machines: [
    { hardware: 'iommufd, plain hardware', path: 'shadow', hearing: 'untold' },
    { hardware: 'type1, plain hardware', path: 'shadow', hearing: 'untold' },
    { hardware: 'iommufd, VT-d', path: 'user-owned', hearing: 'untold' },
  ],
});

hostileMachines({
  subject: scalableSubject,
  restart,
  tables,
  machines: [
    { hardware: 'iommufd, plain hardware', path: 'shadow', hearing: 'watched' },
    { hardware: 'iommufd, VT-d', path: 'user-owned', hearing: 'watched' },
    { hardware: 'iommufd, VT-d', path: 'shadow', hearing: 'on demand' },
    { hardware: 'iommufd, VT-d', path: 'auto', hearing: 'watched' },
    { hardware: 'iommufd, two VT-d', path: 'auto', hearing: 'watched' },
  ],
});
