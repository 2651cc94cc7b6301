import { expect, test } from 'vitest';
import { PFN_LIMIT } from '../../src/memory/address.ts';
import { LargeLeaves } from '../../src/target/large-leaves.ts';

const WHOLE = { first: 0, last: PFN_LIMIT - 1 };

test('a range takes the leaves that covered its ends, whole; single pages are not remembered', () => {
  const leaves = new LargeLeaves();
  leaves.add(0x1234, 12);
  leaves.add(0x2e0, 21);
  leaves.add(0x4_0001, 30);
  expect(leaves.widened(0x1234, 0x1234)).toEqual({ first: 0x1234, last: 0x1234 });
  expect(leaves.widened(0x300, 0x300)).toEqual({ first: 0x200, last: 0x3ff });
  expect(leaves.widened(0x100, 0x250)).toEqual({ first: 0x100, last: 0x3ff });
  expect(leaves.widened(0x3ff, 0x5_0000)).toEqual({ first: 0x200, last: 0x7_ffff });
});

test('a leaf ends where the address space does', () => {
  const leaves = new LargeLeaves();
  leaves.add(PFN_LIMIT - 1, 52);
  expect(leaves.widened(PFN_LIMIT - 1, PFN_LIMIT - 1)).toEqual({ first: PFN_LIMIT - 2 ** 40, last: PFN_LIMIT - 1 });
});

test('of a size of which there were 16,384, any place may have had one, until everything is told anew', () => {
  const leaves = new LargeLeaves();
  for (let i = 0; i <= 1 << 14; i++) leaves.add(i * 512, 21);
  const far = 2 ** 40;
  expect(leaves.widened(far + 5, far + 5)).toEqual({ first: far, last: far + 511 });
  // Of other sizes there were not so many.
  leaves.add(far, 30);
  expect(leaves.widened(2 * far + 5, 2 * far + 5)).toEqual({ first: 2 * far, last: 2 * far + 511 });
  expect(leaves.widened(far + 5, far + 5)).toEqual({ first: far, last: far + 2 ** 18 - 1 });
  leaves.widened(0, far);
  expect(leaves.widened(far + 5, far + 5)).toEqual({ first: far, last: far + 2 ** 18 - 1 });
  expect(leaves.widened(0, PFN_LIMIT - 1)).toEqual(WHOLE);
  expect(leaves.widened(far + 5, far + 5)).toEqual({ first: far + 5, last: far + 5 });
});
