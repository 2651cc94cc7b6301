import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { bit, bits, get, getWide, isSet, put, putWide, reservedClear, reservedMask, wide } from '../../src/target/fields.ts';

const structure = fc.array(fc.integer(), { minLength: 8, maxLength: 8 }).map((words) => Int32Array.from(words));
/** The structure as one number, the oracle of all below. */
const whole = (words: Int32Array): bigint => words.reduceRight((sum, word) => (sum << 32n) | BigInt(word >>> 0), 0n);
const slice = (words: Int32Array, low: number, width: number): bigint => (whole(words) >> BigInt(low)) & ((1n << BigInt(width)) - 1n);

const narrow = fc
  .tuple(fc.nat(7), fc.nat(31), fc.nat(31))
  .map(([word, a, b]) => ({ word, low: Math.min(a, b), high: Math.max(a, b) }))
  .map(({ word, low, high }) => ({
    at: 32 * word + low,
    width: high - low + 1,
    high: 32 * (word % 2) + high,
    low: 32 * (word % 2) + low,
    dw: word >> 1,
  }));
const wider = fc
  .tuple(fc.nat(3), fc.nat(63), fc.integer({ min: 1, max: 52 }))
  .map(([dw, low, width]) => ({ dw, low: Math.min(low, 64 - width), width }));

describe('fields of structures', () => {
  test('a field reads and writes its bits and no others', () => {
    fc.assert(
      fc.property(structure, narrow, fc.integer(), (words, { at, width, high, low, dw }, value) => {
        const field = bits(high, low, dw);
        expect(BigInt(get(words, field) >>> 0)).toBe(slice(words, at, width));
        expect(isSet(words, field)).toBe(slice(words, at, width) !== 0n);
        const before = whole(words);
        put(words, field, value);
        const mask = (1n << BigInt(width)) - 1n;
        expect(whole(words)).toBe((before & ~(mask << BigInt(at))) | ((BigInt.asUintN(32, BigInt(value)) & mask) << BigInt(at)));
      }),
    );
  });

  test('a wide field too, over the border of two words', () => {
    fc.assert(
      fc.property(structure, wider, fc.bigInt({ min: 0n, max: 2n ** 52n - 1n }), (words, { dw, low, width }, value) => {
        const field = wide(low + width - 1, low, dw);
        expect(BigInt(getWide(words, field))).toBe(slice(words, 64 * dw + low, width));
        const before = whole(words);
        const mask = (1n << BigInt(width)) - 1n;
        putWide(words, field, Number(value & mask));
        expect(whole(words)).toBe((before & ~(mask << BigInt(64 * dw + low))) | ((value & mask) << BigInt(64 * dw + low)));
      }),
    );
  });

  test('what no field names is reserved', () => {
    const mask = reservedMask(2, [bit(0), bits(31, 12), wide(53, 10, 1)]);
    expect([...mask].map((word) => word >>> 0)).toEqual([0xffe, 0xffff_ffff, 0x3ff, 0xffc0_0000]);
    expect(reservedClear([1, 0, 0xffff_fc00, 0], mask)).toBe(true);
    expect(reservedClear([3, 0, 0, 0], mask)).toBe(false);
    expect(reservedClear([0, 0, 0, 0x8000_0000], mask)).toBe(false);
  });

  test('a field that is none is refused', () => {
    expect(() => bits(32, 31)).toThrow(RangeError);
    expect(() => bits(3, 4)).toThrow(RangeError);
    expect(() => wide(63, 11)).toThrow(RangeError);
    expect(() => wide(64, 60)).toThrow(RangeError);
  });
});
