import { fc, test } from '@fast-check/vitest';
import { describe, expect } from 'vitest';
import { hiOf, loOf } from '../../../src/memory/address.ts';
import { DmaWindow, MAX_PAGE_LG2, MAX_WINDOW_PAGES } from '../../../src/target/spapr/dma-window.ts';
import { TceBudget } from '../../../src/target/spapr/tce-table.ts';
import type { AddressSpace } from '../../../src/target/target.ts';

/** The window's place, and addresses near its ends, near the next 4 GiB and anywhere. */
const windows = fc.record({
  pageLg2: fc.integer({ min: 12, max: MAX_PAGE_LG2 }),
  pages: fc.integer({ min: 1, max: 31 }).map((lg2) => Math.min(2 ** lg2 + (lg2 & 1), MAX_WINDOW_PAGES)),
  firstPage: fc.oneof(fc.bigInt(0n, 4n), fc.bigInt(0n, 2n ** 20n), fc.bigInt(0n, 2n ** 29n)),
  probes: fc.array(
    fc.record({
      from: fc.constantFrom('start', 'end', 'frame', 'nowhere' as const),
      pages: fc.bigInt(-3n, 3n),
      bytes: fc.constantFrom(0n, 0n, 0n, 1n, 0x800n, 0x1000n),
      anywhere: fc.bigInt(0n, 2n ** 64n - 1n),
    }),
    { minLength: 8, maxLength: 24 },
  ),
});

describe('the index of an I/O bus address', () => {
  test.prop([windows])('is its distance from the start in I/O pages, where it is the first byte of one of them', (shape) => {
    const { pageLg2, pages, firstPage, probes } = shape;
    const bytes = 1n << BigInt(pageLg2);
    const start = firstPage * bytes;
    const end = start + BigInt(pages) * bytes;
    const window = new DmaWindow({} as AddressSpace, { liobn: 1, start, pageLg2, pages }, false, new TceBudget(0));
    for (const { from, pages: distance, bytes: off, anywhere } of probes) {
      const near = { start, end, frame: ((start >> 32n) + 1n) << 32n, nowhere: anywhere }[from];
      const ioba = BigInt.asUintN(64, near + distance * bytes + off);
      const is = ioba % bytes === 0n && ioba >= start && ioba < end;
      expect(window.indexOfIoba(hiOf(ioba), loOf(ioba)), `0x${ioba.toString(16)}`).toBe(is ? Number((ioba - start) / bytes) : -1);
    }
  });
});
