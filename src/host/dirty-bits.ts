import type { DirtyVisitor } from './host.ts';

/** Visits the runs of ones among the first `bits` of a bitmap, as closed ranges of their numbers. */
export function visitBits(bitmap: Uint8Array, bits: number, visit: DirtyVisitor): void {
  let start = -1;
  for (let bit = 0; bit <= bits; bit++) {
    if (start < 0 && (bit & 7) === 0 && bitmap[bit >> 3] === 0) {
      bit += 7;
      continue;
    }
    const set = bit < bits && (bitmap[bit >> 3] & (1 << (bit & 7))) !== 0;
    if (set && start < 0) start = bit;
    else if (!set && start >= 0) {
      visit(start, bit - 1);
      start = -1;
    }
  }
}
