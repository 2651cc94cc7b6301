import { fc } from '@fast-check/vitest';
import type { Buffer } from '../../virtqueue/driver.ts';
import { EP, OTHER } from './fixture.ts';
import { attach, detach, map, probe, unmap } from './requests.ts';

/* Random requests that meet each other: few domains, few pages, a range that ends inside a page now and then. */

export const PAGES = 16;

const domain = fc.nat(2);
const endpoint = fc.constantFrom(EP, EP, OTHER, OTHER, 9);
const first = fc.nat(PAGES - 1);

export interface RequestShape {
  /** Highest guest page that a MAP names. */
  readonly physPages: number;
  readonly attachFlags: number;
  readonly mapFlags: number;
}

export function arbitraryRequest({ physPages, attachFlags, mapFlags }: RequestShape): fc.Arbitrary<Buffer> {
  return fc.oneof(
    { weight: 2, arbitrary: fc.tuple(domain, endpoint, fc.nat(attachFlags)).map((r) => attach(...r)) },
    { weight: 1, arbitrary: fc.tuple(domain, endpoint).map((r) => detach(...r)) },
    {
      weight: 5,
      arbitrary: fc
        .tuple(domain, first, fc.integer({ min: 1, max: 4 }), fc.nat(physPages), fc.nat(mapFlags))
        .map(([id, from, pages, phys, flags]) =>
          map(id, BigInt(from) << 12n, (BigInt(from + pages) << 12n) - 1n, BigInt(phys) << 12n, flags),
        ),
    },
    {
      weight: 3,
      arbitrary: fc
        .tuple(domain, first, fc.integer({ min: 1, max: 8 }), fc.constantFrom(0n, 0n, 0n, 1n))
        .map(([id, from, pages, odd]) => unmap(id, BigInt(from) << 12n, (BigInt(from + pages) << 12n) - 1n - odd)),
    },
    { weight: 1, arbitrary: endpoint.map((id) => probe(id)) },
  );
}
