import { fc } from '@fast-check/vitest';
import { hostileMachines } from '../hostile-machine.ts';
import type { TargetFixture } from '../suite.ts';
import { cfgiAll, type Guest, sync, tlbiAll } from './guest.ts';
import { smmuSubject } from './subject.ts';

const driverOf = (fixture: TargetFixture<unknown>) => (fixture as unknown as { readonly guest: Guest }).guest;

/** Where the driver's tables lie. */
const table = fc.integer({ min: 16, max: 28 });
const tables = fc
  .record({
    in: table,
    first: fc.nat(511),
    count: fc.constantFrom(1, 4, 64, 512),
    to: fc.oneof(table, fc.nat(600)),
    step: fc.constantFrom(0, 0, 1),
    /** A table (or, in the last level, a page); with the Access flag; a block; a page that can be written at both stages. */
    flags: fc.constantFrom(3n, 0x403n, 0x401n, 0x4c3n, 0x443n, 0n),
  })
  .map(({ in: page, first, count, to, step, flags }) => (fixture: TargetFixture<unknown>) => {
    const guest = driverOf(fixture);
    for (let i = first; i < Math.min(512, first + count); i++)
      guest.store(page * 4096 + 8 * i, (BigInt(to + step * (i - first)) << 12n) | flags);
    guest.command(cfgiAll(), tlbiAll(), sync());
  });

const QUEUE = 'iommufd, SMMUv3 with a command queue';

hostileMachines({
  subject: smmuSubject,
  restart: (fixture) => void driverOf(fixture).start(),
  tables,
  machines: [
    { hardware: 'iommufd, plain hardware', path: 'shadow', hearing: 'watched' },
    { hardware: 'iommufd, SMMUv3', path: 'user-owned', hearing: 'watched' },
    { hardware: 'iommufd, SMMUv3', path: 'user-owned', hearing: 'on demand' },
    { hardware: 'iommufd, SMMUv3', path: 'auto', hearing: 'watched' },
    { hardware: 'iommufd, two SMMUv3', path: 'auto', hearing: 'watched' },
    { hardware: QUEUE, path: 'user-owned-queue', hearing: 'watched' },
    { hardware: QUEUE, path: 'auto', hearing: 'watched' },
  ],
});
