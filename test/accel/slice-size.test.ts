import { expect, test } from 'vitest';
import { SliceSize } from '../../src/accel/slice-size.ts';

test('a kind of slice begins with an eighth, and is twice as large after each that was not enough, until it is whole', () => {
  const size = new SliceSize(64);
  const sizes = Array.from({ length: 5 }, () => {
    const { now } = size;
    size.grow();
    return now;
  });
  expect(sizes).toEqual([8, 16, 32, 64, 64]);
});
