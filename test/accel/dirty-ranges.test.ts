import { fc, test } from '@fast-check/vitest';
import { expect } from 'vitest';
import { DirtyRanges } from '../../src/accel/dirty-ranges.ts';
import { reaching } from '../reaching.ts';

const ranges = fc.array(fc.record({ first: fc.nat(50_000), pages: fc.integer({ min: 1, max: 40 }) }), { maxLength: 600 });

function pagesOf(dirty: DirtyRanges): Set<number> {
  const pages = new Set<number>();
  for (let i = 0; i < dirty.count; i++) for (let page = dirty.first(i); page <= dirty.last(i); page++) pages.add(page);
  return pages;
}

const reached = reaching('dirty ranges', 'fewer than the bound', 'more than the bound', 'pages covered that were not added');
test.prop([ranges], { numRuns: 60 })('covers every page that was added, ascending and disjoint, in bounded memory', (added) => {
  reached();
  reached(added.length <= 256 ? 'fewer than the bound' : 'more than the bound');
  const dirty = new DirtyRanges();
  const wanted = new Set<number>();
  for (const { first, pages } of added) {
    dirty.add(first, first + pages - 1);
    for (let page = first; page < first + pages; page++) wanted.add(page);
  }
  dirty.normalize();
  const covered = pagesOf(dirty);
  expect([...wanted].filter((page) => !covered.has(page))).toEqual([]);
  for (let i = 1; i < dirty.count; i++) expect(dirty.first(i)).toBeGreaterThan(dirty.last(i - 1) + 1);
  expect(dirty.count).toBeLessThanOrEqual(256);
  if (covered.size > wanted.size) reached('pages covered that were not added');
  // Below the bound nothing is covered that was not added.
  if (added.length <= 256) expect(covered.size).toBe(wanted.size);
});

test.each([0, 100, 255])('past the bound the two that lie closest become one, wherever they stand: number %i and the next', (closest) => {
  const dirty = new DirtyRanges();
  let added = 0;
  for (let i = 0, at = 0; i < 257; i++, added++) {
    dirty.add(at, at);
    at += i === closest ? 3 : 10 + (i % 7);
  }
  dirty.normalize();
  expect(dirty.count).toBe(256);
  // The two pages between them.
  expect(pagesOf(dirty).size).toBe(added + 2);
  expect(dirty.last(closest) - dirty.first(closest)).toBe(3);
});

test('nothing is left after clear', () => {
  const dirty = new DirtyRanges();
  dirty.add(5, 9);
  dirty.add(1, 2);
  dirty.clear();
  expect(dirty.count).toBe(0);
  dirty.add(7, 7);
  dirty.normalize();
  expect([dirty.count, dirty.first(0), dirty.last(0)]).toEqual([1, 7, 7]);
});

test('a page between two ranges is in neither, whichever came first', () => {
  for (const pages of [
    [10, 12],
    [12, 10],
  ]) {
    const dirty = new DirtyRanges();
    for (const page of pages) dirty.add(page, page);
    dirty.normalize();
    expect([dirty.count, dirty.last(0), dirty.first(1)]).toEqual([2, 10, 12]);
  }
});
