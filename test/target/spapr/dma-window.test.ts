import { fc, test } from '@fast-check/vitest';
import { describe, expect } from 'vitest';
import { hiOf, loOf } from '../../../src/memory/address.ts';
import { DmaWindow, MAX_PAGE_LG2, MAX_WINDOW_PAGES } from '../../../src/target/spapr/dma-window.ts';
import { TceBudget } from '../../../src/target/spapr/tce-table.ts';
import type { AddressSpace } from '../../../src/target/target.ts';
import { reaching } from '../../reaching.ts';

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
  const reached = reaching('I/O bus addresses', 'in the window', 'within one of its pages', 'beside it', 'above 2^32');
  const probe = { from: 'start', pages: 0n, bytes: 0n, anywhere: 0n } as const;
  const example = {
    pageLg2: 12,
    pages: 16,
    firstPage: 2n ** 21n,
    probes: [probe, { ...probe, bytes: 1n as const }, { ...probe, pages: -1n }, { ...probe, from: 'end' as const }],
  };
  test.prop([windows], { examples: [[example]] })(
    'is its distance from the start in I/O pages, where it is the first byte of one of them',
    (shape) => {
      reached();
      const { pageLg2, pages, firstPage, probes } = shape;
      const bytes = 1n << BigInt(pageLg2);
      const start = firstPage * bytes;
      const end = start + BigInt(pages) * bytes;
      const window = new DmaWindow({} as AddressSpace, { liobn: 1, start, pageLg2, pages }, false, new TceBudget(0));
      for (const { from, pages: distance, bytes: off, anywhere } of probes) {
        const near = { start, end, frame: ((start >> 32n) + 1n) << 32n, nowhere: anywhere }[from];
        const ioba = BigInt.asUintN(64, near + distance * bytes + off);
        const isInside = ioba >= start && ioba < end;
        const is = ioba % bytes === 0n && isInside;
        reached(!isInside ? 'beside it' : is ? 'in the window' : 'within one of its pages');
        if (is && ioba >> 32n !== 0n) reached('above 2^32');
        expect(window.indexOfIoba(hiOf(ioba), loOf(ioba)), `0x${ioba.toString(16)}`).toBe(is ? Number((ioba - start) / bytes) : -1);
      }
    },
  );
});
