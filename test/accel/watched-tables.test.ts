import { beforeEach, describe, expect, test } from 'vitest';
import { StoreWatch } from '../../src/accel/store-watch.ts';
import { WatchedSpace, WatchedTables } from '../../src/accel/watched-tables.ts';
import { TableSpace } from './toy-space.ts';

describe('stores to watched tables', () => {
  let watch: StoreWatch;
  let tables: WatchedTables;
  let toy: TableSpace;
  let space: WatchedSpace;
  let changed: [number, number][];
  let settles: boolean;

  const look = () => void space.enumerate(toy.base, toy.base + 63, () => true);

  beforeEach(() => {
    watch = new StoreWatch();
    tables = new WatchedTables(watch);
    toy = new TableSpace('guest');
    space = new WatchedSpace(toy, tables);
    changed = [];
    settles = true;
    space.path = {
      changed: (first, last) => void changed.push([first - toy.base, last - toy.base]),
      settle: () => {
        look();
        return settles;
      },
    };
    look();
  });

  test.each([
    ['the first entry', 0x5000, 8, 0, 15],
    ['the last entry', 0x5018, 8, 48, 63],
    ['one byte of an entry', 0x500f, 1, 16, 31],
    ['parts of two entries', 0x500c, 8, 16, 47],
    ['the end of what is before it, and its beginning', 0x4ffc, 8, 0, 15],
    ['its end, and what is behind it', 0x501c, 8, 48, 63],
    ['all of it, and more', 0x4ff0, 64, 0, 63],
  ])('a store to %s is a change of what the entries map', (_, address, bytes, first, last) => {
    expect(watch.stored(BigInt(address), bytes)).toBe(true);
    expect(changed).toEqual([[first, last]]);
  });

  test('a store beside it, in the same page, is none', () => {
    watch.stored(0x5020n, 8);
    watch.stored(0x5ff8n, 8);
    watch.stored(0x4ff8n, 8);
    expect(changed).toEqual([]);
  });

  test('a page that is a table no more is left at the next store to it, once the hardware has followed', () => {
    toy.isGone = true;
    settles = false;
    watch.stored(0x5000n, 8);
    expect([tables.size, watch.size]).toEqual([1, 1]);
    settles = true;
    watch.stored(0x5000n, 8);
    expect([tables.size, watch.size, space.pages.size]).toEqual([0, 0, 0]);
    expect(watch.stored(0x5000n, 8)).toBe(false);
  });

  test('pages that two spaces have tables in are watched until both are gone', () => {
    const other = new WatchedSpace(toy, tables);
    other.enumerate(toy.base, toy.base + 63, () => true);
    tables.drop(space);
    expect([tables.size, space.pages.size, watch.size]).toEqual([1, 0, 1]);
    tables.drop(other);
    expect([tables.size, watch.size]).toEqual([0, 0]);
  });

  test('what cannot be watched makes its space blind, until it is dropped and there is room', () => {
    watch = new StoreWatch(1);
    tables = new WatchedTables(watch);
    space = new WatchedSpace(toy, tables);
    look();
    expect(space.isBlind).toBe(false);
    toy.at = 0x9000;
    look();
    expect([space.isBlind, tables.size, space.blindness.message]).toEqual([
      true,
      1,
      expect.stringMatching(/toy.*not all of its tables can be watched/),
    ]);
    tables.drop(space);
    look();
    expect([space.isBlind, tables.size]).toEqual([false, 1]);
  });

  test('two tables in one page are two pieces, also where they begin with the same page of the space', () => {
    const piece = (offset: number) => ({ space, offset, bytes: 32, entries: 4, first: toy.base, last: toy.base + 63, isRead: true });
    expect([tables.add(5, piece(64)), tables.add(5, piece(64))]).toEqual([true, true]);
    watch.stored(0x5048n, 8);
    expect(changed).toEqual([[16, 31]]);
  });

  test('65,536 pages are watched at most, and what is watched already stays so', () => {
    let watched = 0;
    const all = new WatchedTables({ watch: () => ++watched > 0, unwatch: () => {}, observe: () => () => {} });
    const piece = { space, offset: 0, bytes: 32, entries: 4, first: 0, last: 63, isRead: true };
    let taken = 0;
    for (let pfn = 0; pfn < 1 << 16; pfn++) taken += Number(all.add(pfn, piece));
    expect([taken, all.add(1 << 16, piece), all.add(7, piece), watched]).toEqual([1 << 16, false, true, 1 << 16]);
  });

  test('a page that is watched is so again where there is no room; who has ended observing ends nobody else’s', () => {
    const small = new StoreWatch(1);
    expect([small.watch(1), small.watch(2), small.watch(1), small.size]).toEqual([true, false, true, 1]);
    const end = small.observe(() => {});
    end();
    const heard: number[] = [];
    small.observe((pfn) => heard.push(pfn));
    end();
    small.stored(0x1ff8n, 16);
    expect(heard).toEqual([1]);
  });

  test('closed, nothing is watched, and somebody else can observe', () => {
    tables.close();
    expect([watch.size, tables.size]).toEqual([0, 0]);
    expect(() => watch.observe(() => {})).not.toThrow();
  });
});
