import { expect, test } from 'vitest';
import { RunList } from '../../src/accel/run-list.ts';

test('a list is cut before a page: the run that holds it ends there, and those behind are gone', () => {
  const list = new RunList(8);
  for (const iova of [0, 10, 20]) list.push(iova, 100 + iova, 5, 3);
  list.cut(12);
  expect([list.length, list.iova[1], list.pages[0], list.pages[1]]).toEqual([2, 10, 5, 2]);
  list.cut(10);
  expect([list.length, list.pages[0]]).toEqual([1, 5]);
  list.cut(0);
  expect(list.length).toBe(0);
});
