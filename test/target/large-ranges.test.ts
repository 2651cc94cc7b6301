import { beforeEach, describe, expect, test } from 'vitest';
import { LargeRanges } from '../../src/target/large-ranges.ts';

/* What is left to be announced of spaces that are too large to be announced at once. */

const PARTS = 3;

describe('large ranges', () => {
  let ranges: LargeRanges<string>;
  let told: string[];
  /** Pages that one part comes to. */
  let reach: number;
  const advance = () =>
    ranges.advance((space, first, last, all) => {
      told.push(`${space} ${first}-${last}${all ? ', all' : ''}`);
      return all ? last + 1 : Math.min(first + reach, last + 1);
    });

  beforeEach(() => {
    ranges = new LargeRanges(PARTS);
    told = [];
    reach = 10;
  });

  test('are done in parts, the last page too', () => {
    ranges.add('a', { first: 0, last: 10 });
    advance();
    expect([told, ranges.isEmpty]).toEqual([['a 0-10'], false]);
    advance();
    expect([told, ranges.isEmpty]).toEqual([['a 0-10', 'a 10-10'], true]);
    advance();
    expect(told).toHaveLength(2);
  });

  test('behind so many parts the rest is one', () => {
    ranges.add('a', { first: 0, last: 1000 });
    for (let i = 0; i <= PARTS; i++) advance();
    expect([told.at(-2), told.at(-1), ranges.isEmpty]).toEqual(['a 20-1000', 'a 30-1000, all', true]);
  });

  test('of one space become one, with what lies between them, at its end or its beginning', () => {
    ranges.add('a', { first: 50, last: 60 });
    ranges.add('a', { first: 5, last: 6 });
    ranges.add('b', { first: 7, last: 8 });
    advance();
    expect(told).toEqual(['a 5-60', 'b 7-8']);
    expect(ranges.isEmpty).toBe(false);
    ranges.add('a', { first: 70, last: 80 });
    advance();
    expect(told.at(-1)).toBe('a 15-80');
    ranges.delete('a');
    expect(ranges.isEmpty).toBe(true);
  });

  test('wait where nothing more can be told of one now', () => {
    ranges.add('a', { first: 0, last: 10 });
    ranges.add('b', { first: 0, last: 10 });
    reach = 0;
    advance();
    expect([told, ranges.isEmpty]).toEqual([['a 0-10'], false]);
    reach = 11;
    advance();
    expect([told.slice(1), ranges.isEmpty]).toEqual([['a 0-10', 'b 0-10'], true]);
    ranges.add('a', { first: 0, last: 10 });
    ranges.clear();
    expect(ranges.isEmpty).toBe(true);
  });
});
