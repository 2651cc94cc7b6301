import { fc, test as property } from '@fast-check/vitest';
import { describe, expect, test } from 'vitest';
import { PFN_LIMIT } from '../../src/memory/address.ts';
import { INTERVAL_FULL, INTERVAL_OVERLAP, IntervalMap } from '../../src/memory/interval-map.ts';
import { reaching } from '../reaching.ts';
import { expectSame } from '../same.ts';

type Interval = [first: number, value: number, pages: number, permission: number];

/** The same by brute force: an ascending array of intervals. */
class NaiveMap {
  list: Interval[] = [];
  readonly limit: number;
  constructor(limit: number) {
    this.limit = limit;
  }
  insert(first: number, pages: number, value: number, permission: number): number {
    if (this.list.some(([f, , p]) => f < first + pages && first < f + p)) return INTERVAL_OVERLAP;
    if (this.list.length === this.limit) return INTERVAL_FULL;
    this.list.push([first, value, pages, permission]);
    this.list.sort((a, b) => a[0] - b[0]);
    return 0;
  }
  remove(first: number, pages: number): number {
    const end = first + pages;
    let removed = 0;
    const rest: Interval[] = [];
    for (const [f, v, p, permission] of this.list) {
      if (f < Math.min(first, f + p)) rest.push([f, v, Math.min(first, f + p) - f, permission]);
      const right = Math.max(end, f);
      if (right < f + p) rest.push([right, v + right - f, f + p - right, permission]);
      removed += Math.max(0, Math.min(end, f + p) - Math.max(first, f));
    }
    // An untouched interval came out as "left" or as "right" part, whole; one that spans the range, as both.
    if (rest.length > this.limit) return INTERVAL_FULL;
    this.list = rest;
    return removed;
  }
  lookup(pfn: number): Interval | undefined {
    return this.list.find(([f, , p]) => f <= pfn && pfn < f + p);
  }
  runs(first: number, last: number): Interval[] {
    const runs: Interval[] = [];
    for (const [f, v, p, permission] of this.list) {
      const from = Math.max(f, first);
      const to = Math.min(f + p, last + 1);
      if (from >= to) continue;
      const before = runs.at(-1);
      const target = v + from - f;
      if (before && before[0] + before[2] === from && before[1] + before[2] === target && before[3] === permission) before[2] += to - from;
      else runs.push([from, target, to - from, permission]);
    }
    return runs;
  }
}

function intervalsOf(map: IntervalMap, first = 0, last = PFN_LIMIT - 1): Interval[] {
  const all: Interval[] = [];
  map.intervals(first, last, (...interval) => all.push(interval) > 0);
  return all;
}

function runsOf(map: IntervalMap, first: number, last: number): Interval[] {
  const all: Interval[] = [];
  map.runs(first, last, (...run) => all.push(run) > 0);
  return all;
}

type Operation = ['insert' | 'remove' | 'look', first: number, pages: number, value: number, permission: number];

/** `identity`: values that continue those of neighbours, so that there is something to merge. */
function operations(space: number, longest: number) {
  return fc.tuple(
    fc.constantFrom<Operation[0]>('insert', 'insert', 'remove', 'look'),
    fc.nat(space),
    fc.integer({ min: 1, max: longest }),
    fc.constantFrom(0, 1000),
    fc.constantFrom(1, 3),
  );
}

function agree(map: IntervalMap, model: NaiveMap, [kind, first, pages, offset, permission]: Operation): void {
  if (kind === 'insert') {
    const slot = map.insert(first, pages, first + offset, permission);
    expectSame(Math.min(slot, 0), model.insert(first, pages, first + offset, permission));
    if (slot >= 0)
      expect([map.firstOf(slot), map.valueOf(slot), map.pagesOf(slot), map.permissionOf(slot)]).toEqual([
        first,
        first + offset,
        pages,
        permission,
      ]);
  } else if (kind === 'remove') {
    expectSame(map.remove(first, pages), model.remove(first, pages));
  } else {
    const last = first + pages - 1;
    const slot = map.lookup(first);
    expectSame(slot < 0 ? undefined : map.firstOf(slot), model.lookup(first)?.[0]);
    const sought = map.seek(first);
    expectSame(sought < 0 ? undefined : map.firstOf(sought), model.list.find(([f, , p]) => f + p > first)?.[0]);
    expectSame(runsOf(map, first, last), model.runs(first, last));
    expectSame(
      intervalsOf(map, first, last),
      model.list.filter(([f, , p]) => f <= last && first < f + p),
    );
  }
  expectSame(map.size, model.list.length);
}

describe('IntervalMap against a naive array', () => {
  const atLimit = reaching('the interval map at its limit', 'an insertion refused', 'a removal that cuts', 'a full map');
  property.prop([fc.array(operations(60, 20), { maxLength: 60 }), fc.integer({ min: 1, max: 12 })])(
    'dense, at its limit',
    (program, limit) => {
      atLimit();
      const map = new IntervalMap(limit);
      const model = new NaiveMap(limit);
      for (const operation of program) {
        const size = map.size;
        agree(map, model, operation);
        if (operation[0] === 'insert' && map.size === size) atLimit('an insertion refused');
        if (operation[0] === 'remove' && map.size !== size) atLimit('a removal that cuts');
        if (map.size === limit) atLimit('a full map');
        expect(intervalsOf(map)).toEqual(model.list);
      }
    },
  );

  // Thousands of single pages make a tree of three levels; long removals then join and empty its nodes.
  property.prop([fc.integer(), fc.array(operations(8000, 700), { minLength: 30, maxLength: 60 })], { numRuns: 5 })(
    'a tree of several levels, torn down',
    (seed, program) => {
      const map = new IntervalMap(5000);
      const model = new NaiveMap(5000);
      let state = seed;
      const random = () => {
        state = (Math.imul(state, 1664525) + 1013904223) | 0;
        return (state >>> 8) % 8000;
      };
      for (let i = 0; i < 3000; i++) {
        const pfn = seed & 1 ? random() : i * 2;
        if (map.lookup(pfn) < 0) {
          map.insert(pfn, 1, pfn, 3);
          model.list.push([pfn, pfn, 1, 3]);
        }
      }
      model.list.sort((a, b) => a[0] - b[0]);
      expect(intervalsOf(map)).toEqual(model.list);
      for (const operation of program) agree(map, model, operation);
      for (const [first] of model.list.filter((_, i) => i % 3 > 0)) agree(map, model, ['remove', first, 1, 0, 0]);
      expect(intervalsOf(map)).toEqual(model.list);
      for (const [first] of model.list) expect(map.firstOf(map.lookup(first))).toBe(first);
      agree(map, model, ['remove', 0, PFN_LIMIT, 0, 0]);
      for (const operation of program) agree(map, model, operation);
      expect(intervalsOf(map)).toEqual(model.list);
    },
  );
});

describe('IntervalMap', () => {
  test('keeps adjacent intervals apart, and merges them for runs', () => {
    const map = new IntervalMap(10);
    map.insert(10, 5, 100, 3);
    map.insert(15, 5, 105, 3);
    map.insert(20, 5, 110, 1);
    map.insert(25, 5, 200, 1);
    expect(intervalsOf(map).map(([first]) => first)).toEqual([10, 15, 20, 25]);
    expect(runsOf(map, 12, 27)).toEqual([
      [12, 102, 8, 3],
      [20, 110, 5, 1],
      [25, 200, 3, 1],
    ]);
  });

  test('a whole leaf that goes, wherever it stands in a tree of three levels, is a gap to every search', () => {
    const [leaf, intervals] = [64, 4800];
    for (let at = 0; at < intervals; at += leaf) {
      const map = new IntervalMap(intervals);
      for (let i = 0; i < intervals; i++) map.insert(4 * i, 2, 4 * i, 3);
      const [first, end] = [4 * at, 4 * (at + leaf)];
      expect(map.remove(first, end - first)).toBe(2 * leaf);
      for (const page of [first, first + 7, end - 1]) {
        expect(map.lookup(page)).toBe(-1);
        const next = map.seek(page);
        expect(next < 0 ? intervals * 4 : map.firstOf(next), `from page ${page}`).toBe(end);
      }
      if (first > 0) expect(map.firstOf(map.lookup(first - 3))).toBe(first - 4);
      expect(map.insert(first + 4, 2, 0, 3)).toBeGreaterThanOrEqual(0);
      expect(map.firstOf(map.seek(first))).toBe(first + 4);
    }
  });

  test('of hundreds of thousands, added in no order, nothing is lost', () => {
    const [intervals, step] = [300_000, 7919];
    const map = new IntervalMap(intervals);
    const place = (i: number) => (i * step) % intervals;
    let wrong = 0;
    for (let i = 0; i < intervals; i++) if (map.insert(2 * place(i), 1, 5 * place(i), 3) !== i) wrong++;
    expect(map.insert(1, 1, 0, 3)).toBe(INTERVAL_FULL);
    for (let page = 0; page < 2 * intervals; page++) {
      const slot = map.lookup(page);
      if (page % 2 === 1 ? slot >= 0 : slot < 0 || map.valueOf(slot) !== 2.5 * page) wrong++;
    }
    expect(wrong).toBe(0);
    expect(map.remove(2, 2 * intervals - 4)).toBe(intervals - 2);
    expect(intervalsOf(map)).toEqual([
      [0, 0, 1, 3],
      [2 * intervals - 2, 5 * (intervals - 1), 1, 3],
    ]);
  });

  test('fills from its end, as from its beginning', () => {
    const map = new IntervalMap(1000);
    for (let first = 999; first >= 0; first--) expect(map.insert(first * 2, 1, first, 3)).toBeGreaterThanOrEqual(0);
    expect(intervalsOf(map).map(([first]) => first)).toEqual(Array.from({ length: 1000 }, (_, i) => i * 2));
    for (let page = 0; page < 2000; page++) expect(map.lookup(page) >= 0).toBe(page % 2 === 0);
    expect(map.remove(0, 2000)).toBe(1000);
    expect(map.size).toBe(0);
  });

  test('a visitor that answers false learns where it stopped', () => {
    const map = new IntervalMap(10);
    map.insert(10, 5, 100, 3);
    map.insert(15, 5, 105, 3);
    map.insert(30, 5, 0, 3);
    expect(map.runs(0, 100, () => false)).toBe(20);
    expect(map.intervals(0, 100, () => false)).toBe(15);
    expect(map.runs(0, 17, () => false)).toBe(18);
    expect(map.intervals(0, 12, () => false)).toBe(13);
    expect(map.runs(0, 100, () => true)).toBe(101);
    expect(map.runs(50, 100, () => false)).toBe(101);
  });

  test('reaches the last page of a 64-bit address space', () => {
    const map = new IntervalMap(4);
    expect(map.insert(PFN_LIMIT - 2, 2, 7, 1)).toBeGreaterThanOrEqual(0);
    expect(map.valueOf(map.lookup(PFN_LIMIT - 1))).toBe(7);
    expect(map.remove(0, PFN_LIMIT - 1)).toBe(1);
    expect(runsOf(map, 0, PFN_LIMIT - 1)).toEqual([[PFN_LIMIT - 1, 8, 1, 1]]);
    expect(map.remove(0, PFN_LIMIT)).toBe(1);
    expect(map.insert(0, PFN_LIMIT, 0, 3)).toBeGreaterThanOrEqual(0);
    expect(map.insert(5, 1, 0, 3)).toBe(INTERVAL_OVERLAP);
  });

  test('at its limit neither an insertion nor a hole is made', () => {
    const map = new IntervalMap(2);
    map.insert(0, 10, 0, 3);
    map.insert(20, 10, 20, 3);
    expect(map.insert(40, 1, 0, 3)).toBe(INTERVAL_FULL);
    expect(map.remove(3, 2)).toBe(INTERVAL_FULL);
    expect(intervalsOf(map)).toEqual([
      [0, 0, 10, 3],
      [20, 20, 10, 3],
    ]);
    expect(map.remove(8, 14)).toBe(4);
    map.clear();
    expect([map.size, map.lookup(0), map.seek(0)]).toEqual([0, -1, -1]);
    expect(map.insert(0, 1, 5, 1)).toBeGreaterThanOrEqual(0);
  });

  test('cleared with places that were free, it fills anew', () => {
    const map = new IntervalMap(1000);
    for (let round = 0; round < 2; round++) {
      for (let i = 0; i < 500; i++) expect(map.insert(4 * i, 2, i, 3)).toBeGreaterThanOrEqual(0);
      expect(intervalsOf(map)).toEqual(Array.from({ length: 500 }, (_, i) => [4 * i, i, 2, 3]));
      // Nodes and slots that are free now are not twice so after `clear`.
      map.remove(200, 1400);
      map.clear();
    }
  });

  test('misuse throws', () => {
    const map = new IntervalMap(2);
    expect(() => new IntervalMap(0)).toThrow(RangeError);
    expect(() => new IntervalMap(1.5)).toThrow(RangeError);
    expect(() => map.insert(0, 0, 0, 3)).toThrow(RangeError);
    expect(() => map.insert(-1, 2, 0, 3)).toThrow(RangeError);
    expect(() => map.insert(PFN_LIMIT - 1, 2, 0, 3)).toThrow(RangeError);
    expect(() => map.insert(Number.NaN, 2, 0, 3)).toThrow(RangeError);
  });

  test('allocates nothing once it has grown', () => {
    const map = new IntervalMap(1000);
    const churn = () => {
      for (let i = 0; i < 1000; i++) map.insert(i * 4, 2, i, 3);
      for (let i = 0; i < 4000; i++) map.lookup(i);
      for (let i = 0; i < 1000; i += 2) map.remove(i * 4 + 1, 4);
      map.remove(0, 5000);
    };
    for (let i = 0; i < 20; i++) churn();
    const before = process.memoryUsage().arrayBuffers;
    for (let i = 0; i < 20; i++) churn();
    expect(process.memoryUsage().arrayBuffers).toBeLessThanOrEqual(before);
  });
});

test('what is no range of pages, no integer or no int32 is refused at once, and changes nothing', () => {
  const map = new IntervalMap(8);
  map.insert(4, 4, 100, 3);
  const ranges: [number, number][] = [
    [0.5, 1],
    [0, 1.5],
    [-1, 2],
    [0, -1],
    [Number.NaN, 1],
    [0, Number.NaN],
    [PFN_LIMIT - 1, 2],
    ['0' as unknown as number, 1],
  ];
  for (const [first, pages] of ranges) {
    expect(() => map.insert(first, pages, 0, 3), `insert ${first} ${pages}`).toThrow(RangeError);
    expect(() => map.remove(first, pages), `remove ${first} ${pages}`).toThrow(RangeError);
  }
  expect(() => map.insert(0, 0, 0, 3)).toThrow(/\[0, 0\) is no range of pages/);
  for (const permission of [1e12, 0.5, Number.NaN]) expect(() => map.insert(0, 1, 0, permission)).toThrow(/permission/);
  for (const value of [0.5, Number.NaN]) expect(() => map.insert(0, 1, value, 3)).toThrow(/value/);
  expect(map.remove(0, 0)).toBe(0);
  expect(map.insert(PFN_LIMIT - 1, 1, 0, 3)).toBeGreaterThanOrEqual(0);
  expect([map.size, map.remove(0, PFN_LIMIT)]).toEqual([2, 5]);
});
