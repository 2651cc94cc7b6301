import { READ_WRITE } from '../../src/memory/access.ts';
import { Iotlb } from '../../src/memory/iotlb.ts';
import { Random } from '../random.ts';
import type { Row, Variant, Work } from '../row.ts';

const SPACE = 7;
const CONTEXT = 2;
/** READ of src/memory/access.ts, as a constant that the compiler folds. */
const WISH = 1;
/** Upper half of every address looked up. */
const HI = 5;

/** A cache with room for twice as many has `pages` pages in a row, from HI * 2^32 on. */
function filled(pages: number): Iotlb {
  const iotlb = new Iotlb(2 * pages);
  const out = new Int32Array(4);
  for (let page = 0; page < pages; page++) {
    out[0] = Math.imul(page, 0x9e3779b1) & ~0xfff;
    out[1] = page >>> 8;
    out[2] = READ_WRITE;
    iotlb.fill(SPACE, CONTEXT, HI, page << 12, 12, out);
  }
  return iotlb;
}

const OPERATIONS = 1 << 13;

/** Pages to look up, over and over. */
function orderOf(pages: number, random: boolean): Int32Array {
  const numbers = new Random();
  return Int32Array.from({ length: Math.max(pages, OPERATIONS) }, (_, i) => (random ? numbers.next() : i) & (pages - 1));
}

/**
 * The cache is an object like any other: its fields are loaded for each lookup. The order is the benchmark's, and a constant
 * as it is in C. `#iotlb` is set in the constructor, not where it is declared: then it is no constant, even where `this` is.
 */
function objectHits(filledCache: Iotlb, order: Int32Array): Work {
  class Hits implements Work {
    readonly operations = OPERATIONS;
    readonly #iotlb: Iotlb;
    #at = 0;

    constructor(iotlb: Iotlb) {
      this.#iotlb = iotlb;
    }

    batch(): number {
      const iotlb = this.#iotlb;
      const start = this.#at | 0;
      const end = start + OPERATIONS;
      let sum = 0;
      for (let i = start; i < end; i++) {
        const lg2 = iotlb.lookup(SPACE, CONTEXT, HI, order[i] << 12, WISH);
        const out = iotlb.out;
        sum = (sum + lg2 + out[0] + out[1]) | 0;
      }
      this.#at = end === order.length ? 0 : end;
      return sum;
    }
  }
  return new Hits(filledCache);
}

/** The cache is a constant to the compiler, which makes `lookup` part of the loop and its fields part of the code. */
function inlinedHits(filledCache: Iotlb, order: Int32Array): Work {
  const iotlb = filledCache;
  const out = iotlb.out;
  let at = 0;
  const batch = () => {
    const start = at | 0;
    const end = start + OPERATIONS;
    let sum = 0;
    for (let i = start; i < end; i++) {
      const lg2 = iotlb.lookup(SPACE, CONTEXT, HI, order[i] << 12, WISH);
      sum = (sum + lg2 + out[0] + out[1]) | 0;
    }
    at = end === order.length ? 0 : end;
    return sum;
  };
  return { operations: OPERATIONS, batch };
}

/** The variants of a row that compares hits with those of `program`. */
export function hitVariants(program: string, goals: { readonly inlined: number; readonly object: number }): Variant[] {
  const sizes = [
    ['16K', 1 << 14],
    ['1M', 1 << 20],
  ] as const;
  return sizes.flatMap(([label, pages]) =>
    ['random', 'sequential'].flatMap((order) => {
      const baseline = { program, arguments: [String(pages), order] };
      const orderNow = () => orderOf(pages, order === 'random');
      return [
        { name: `${label} ${order}, inlined`, goal: goals.inlined, baseline, setup: () => inlinedHits(filled(pages), orderNow()) },
        { name: `${label} ${order}, object`, goal: goals.object, baseline, setup: () => objectHits(filled(pages), orderNow()) },
      ];
    }),
  );
}

export const row: Row = {
  name: 'iotlb-hit',
  baseline: 'the same cache in C, inlined',
  variants: hitVariants('iotlb', { inlined: 1.3, object: 1.9 }),
};
