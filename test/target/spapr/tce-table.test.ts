import { expect, test } from 'vitest';
import { TceArray, TceBudget, TceTable } from '../../../src/target/spapr/tce-table.ts';

const CHUNK = 1 << 15;
const COUNT = 512;

/** A table that holds `tces` from `index` on, and the list. */
function filled(index: number): [table: TceTable, tces: TceArray] {
  const table = new TceTable(3 * CHUNK, new TceBudget(2 ** 20));
  const tces = new TceArray(COUNT);
  for (let i = 0; i < COUNT; i++) tces.set(i, i, i << 12);
  expect(table.reserve(index, tces, 0, COUNT)).toBe(true);
  table.write(index, tces, 0, COUNT);
  return [table, tces];
}

// At a chunk's start, within one, and over the border of two.
test.each([0, 1000, CHUNK - 1, CHUNK - 17, CHUNK - 100, 2 * CHUNK - COUNT])(
  'the first and the last TCE that differ from what stands from %i on',
  (index) => {
    const [table, tces] = filled(index);
    expect([table.firstDifference(index, tces, COUNT), table.lastDifference(index, tces, COUNT)]).toEqual([COUNT, -1]);
    for (let place = 0; place < COUNT; place++) {
      const [hi, lo] = [tces.hi(place), tces.lo(place)];
      for (const [otherHi, otherLo] of [
        [hi ^ (1 << 31), lo],
        [hi, lo ^ 1],
      ]) {
        tces.set(place, otherHi, otherLo);
        expect([table.firstDifference(index, tces, COUNT), table.lastDifference(index, tces, COUNT)]).toEqual([place, place]);
        // What lies behind the list is not looked at.
        expect(table.firstDifference(index, tces, place)).toBe(place);
      }
      tces.set(place, hi, lo);
    }
  },
);

test('a TCE is put where there is storage only', () => {
  const [table] = filled(5);
  expect(table.put(CHUNK + 5, 1, 2)).toBe(false);
  expect(table.put(6, 1, 2)).toBe(true);
  expect([table.chunk(6).hi(6), table.chunk(6).lo(6), table.chunk(CHUNK + 5).lo(CHUNK + 5)]).toEqual([1, 2, 0]);
});
