import fc from 'fast-check';
import { H_GET_TCE, H_PUT_TCE, H_PUT_TCE_INDIRECT, H_STUFF_TCE } from '../../../src/target/spapr/index.ts';
import { bridges, ram } from './machine.ts';

/** One step of a guest's program. */
export type Step =
  | { readonly kind: 'call'; readonly opcode: number; readonly parameters: readonly bigint[]; readonly list: readonly bigint[] }
  | { readonly kind: 'create'; readonly pageLg2: number; readonly windowLg2: number }
  | { readonly kind: 'remove'; readonly liobn: number }
  | { readonly kind: 'reset' };

const DDW_START = 0x800000000000000n;
/** Few places, so that steps meet: LIOBN, bus address, lg2 of the page; some at the end of a window, some in no window that stays. */
const places = [
  [0x80000000n, 0n, 12n],
  [0x80000000n, 0xff0n << 12n, 12n],
  [0x80000001n, DDW_START, 12n],
  [0x80000001n, DDW_START, 16n],
  [0x80000001n, DDW_START + 0xf8000n, 12n],
  [0x80010000n, 0x80000000n, 16n],
  [0x80010000n, 0x80000000n + (32990n << 16n), 16n],
] as const;

const hostile = fc.oneof(
  fc.bigInt({ min: 0n, max: (1n << 64n) - 1n }),
  fc.constantFrom(0n, 1n, 0xfffn, 1n << 31n, 1n << 32n, 1n << 63n, (1n << 63n) - 1n, (1n << 64n) - 1n, (1n << 64n) - 0x1000n),
);

function mostly(usual: fc.Arbitrary<bigint>): fc.Arbitrary<bigint> {
  return fc.oneof({ arbitrary: usual, weight: 12 }, { arbitrary: hostile, weight: 1 });
}

const place = fc
  .tuple(fc.constantFrom(...places), fc.oneof({ arbitrary: fc.bigInt({ min: 0n, max: 8n }), weight: 4 }, fc.bigInt({ min: 0n, max: 24n })))
  .map(([[liobn, start, lg2], page]) => ({ liobn, ioba: start + (page << lg2) }));
const liobn = mostly(fc.constantFrom(...places.map(([it]) => it)));
const anyPlace = fc.oneof(
  { arbitrary: place, weight: 10 },
  { arbitrary: fc.record({ liobn, ioba: mostly(place.map(({ ioba }) => ioba)) }), weight: 1 },
);
/** Pages around every edge of RAM, in a few of which two windows meet. */
const edges = ram.flatMap(([start, bytes]) => [start, start + BigInt(bytes)]);
const page = fc.oneof(
  { arbitrary: fc.bigInt({ min: 0n, max: 40n }), weight: 6 },
  fc.tuple(fc.constantFrom(...edges), fc.bigInt({ min: -18n, max: 18n })).map(([edge, off]) => BigInt.asUintN(52, (edge >> 12n) + off)),
);
const tce = mostly(fc.tuple(page, fc.constantFrom(0n, 1n, 2n, 3n, 3n, 0xffcn)).map(([pfn, low]) => (pfn << 12n) | low));
const count = mostly(
  fc.oneof(
    { arbitrary: fc.bigInt({ min: 0n, max: 8n }), weight: 3 },
    fc.bigInt({ min: 0n, max: 40n }),
    fc.bigInt({ min: 505n, max: 514n }),
  ),
);
const listAddress = mostly(
  fc.oneof(
    page.map((pfn) => pfn << 12n),
    page.map((pfn) => (pfn << 12n) + 8n),
  ),
);
/** A list of pages in a row, as a guest makes it, with some of anything in it. */
const list = fc.oneof(
  fc
    .tuple(page, fc.constantFrom(1n, 2n, 3n), fc.nat(40))
    .map(([pfn, low, length]) => Array.from({ length }, (_, i) => BigInt.asUintN(64, ((pfn + BigInt(i)) << 12n) | low))),
  fc.array(tce, { maxLength: 12 }),
);

const call = fc
  .record({
    opcode: fc.constantFrom(H_GET_TCE, H_PUT_TCE, H_STUFF_TCE, H_PUT_TCE_INDIRECT),
    place: anyPlace,
    tce,
    listAddress,
    count,
    list,
  })
  .map(
    ({ opcode, list, ...it }): Step => ({
      kind: 'call',
      opcode,
      parameters: [it.place.liobn, it.place.ioba, opcode === H_PUT_TCE_INDIRECT ? it.listAddress : it.tce, it.count],
      list,
    }),
  );

const step = fc.oneof(
  { arbitrary: call, weight: 16 },
  {
    arbitrary: fc
      .record({ pageLg2: fc.constantFrom(12, 12, 16, 16, 24), windowLg2: fc.constantFrom(12, 20, 21, 28, 40) })
      .map((it): Step => ({ kind: 'create', ...it })),
    weight: 2,
  },
  { arbitrary: fc.constantFrom(0x80000000, 0x80000001, 0x80010000, 7).map((it): Step => ({ kind: 'remove', liobn: it })), weight: 1 },
  { arbitrary: fc.constant<Step>({ kind: 'reset' }), weight: 1 },
);

export const program = fc.array(step, { minLength: 1, maxLength: 60 });

/** The bridge that can have dynamic windows. */
export const { buid } = bridges[0];
