import { beforeEach, describe, expect, test } from 'vitest';
import { DirtyRanges } from '../../src/accel/dirty-ranges.ts';
import { Survey } from '../../src/accel/survey.ts';
import { READ_WRITE } from '../../src/memory/access.ts';
import { GuestMemory } from '../../src/memory/guest-memory.ts';
import { IntervalMap } from '../../src/memory/interval-map.ts';
import { ToySpace } from './toy-space.ts';

/* What a flush asks of a space, and what it leaves for the next one. Pages are said from the space's first on. */

describe('a survey', () => {
  let space: ToySpace;
  let now: IntervalMap;
  let memory: GuestMemory;

  const surveyOf = () => Survey.by({ space, memory, tolerant: false, cuts: false, workOf: () => 1 });
  const rangesOf = (...ranges: [number, number][]) => {
    const dirty = new DirtyRanges();
    for (const [first, last] of ranges) dirty.add(space.base + first, space.base + last);
    return dirty;
  };
  const pagesOf = (ranges: DirtyRanges) =>
    Array.from({ length: ranges.count }, (_, i) => [ranges.first(i) - space.base, ranges.last(i) - space.base]);
  const firstsOf = (list: { readonly length: number; readonly iova: Float64Array }) =>
    Array.from({ length: list.length }, (_, i) => list.iova[i] - space.base);

  beforeEach(() => {
    space = new ToySpace('guest');
    now = new IntervalMap(1024);
    memory = new GuestMemory([{ gpa: 0n, buffer: new ArrayBuffer(256 * 4096), hostAddress: 0x1000_0000n }]);
    // Every other page of the guest's; of the hardware's, some that are stale.
    for (let page = 0; page < 64; page += 2) space.set(page, 1, 2 * page, READ_WRITE);
    for (const page of [1, 21, 41]) now.insert(space.base + page, 1, 200 + page, READ_WRITE);
  });

  test('of all asks no more behind what was too much, and takes away all that is stale', () => {
    const survey = surveyOf();
    space.reach = 10;
    expect(survey.take(rangesOf([0, 15], [20, 29], [40, 49]), now)).toBe(true);
    expect(firstsOf(survey.lists.additions)).toEqual([0, 2, 4, 6, 8]);
    expect(firstsOf(survey.lists.removals)).toEqual([1, 21, 41]);
    expect(pagesOf(survey.rest)).toEqual([
      [10, 15],
      [20, 29],
      [40, 49],
    ]);
    survey.end();
  });

  test('of a slice leaves what it did not come to as it is', () => {
    const survey = surveyOf();
    space.reach = 10;
    expect(survey.takeSlice(rangesOf([20, 29], [40, 63], [0, 9]), now)).toBe(true);
    expect(firstsOf(survey.lists.removals)).toEqual([21, 41]);
    expect(pagesOf(survey.rest)).toEqual([
      [50, 63],
      [0, 9],
    ]);
    survey.end();
  });

  test('is nobody else’s until its end, and one of those behind it', () => {
    const one = surveyOf();
    one.take(rangesOf([0, 9]), now);
    const other = surveyOf();
    other.take(rangesOf([20, 21]), now);
    expect([firstsOf(one.lists.removals), firstsOf(other.lists.removals)]).toEqual([[1], [21]]);
    one.end();
    const third = surveyOf();
    third.take(rangesOf([40, 41]), now);
    expect([third, firstsOf(other.lists.removals), firstsOf(third.lists.removals)]).toEqual([one, [21], [41]]);
    other.end();
    third.end();
  });
});
