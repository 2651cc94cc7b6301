import { describe, expect, test } from 'vitest';
import { doubled } from '../../src/memory/doubled.ts';

const MIB = 1 << 20;

describe('an array with twice the room', () => {
  test.each([Float64Array, Int32Array])('%o: what stood there stands there, and the rest is 0', (Kind) => {
    let array: Float64Array | Int32Array = new Kind(4);
    array.set([1, 2, 3]);
    for (let length = 4; array.byteLength <= 128 * MIB; length *= 2) {
      expect(array).toHaveLength(length);
      expect([array[0], array[1], array[2], array[3], array[length - 1]]).toEqual([1, 2, 3, 0, 0]);
      expect(array).toBeInstanceOf(Kind);
      array = doubled(array);
    }
  });

  test('above 32 MiB it grows where it is: nothing is copied, and no array is detached', () => {
    let array: Float64Array = new Float64Array(32 * (MIB / 8));
    array[5] = 7;
    const copied = doubled(array);
    expect([array.byteLength, copied[5]]).toEqual([32 * MIB, 7]);
    for (array = copied; array.byteLength < 512 * MIB; ) {
      const before = array;
      array = doubled(array);
      array[6] = before.length;
      expect([array[5], array[before.length], before[6]]).toEqual([7, 0, before.length]);
    }
  });

  test('each has a memory of its own', () => {
    const [one, other] = [1, 2].map((value) => doubled(new Int32Array(16 * MIB).fill(value)));
    expect([one[0], other[0], doubled(one)[0], other[0]]).toEqual([1, 2, 1, 2]);
  });
});
