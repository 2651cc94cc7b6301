import { describe, expect, test } from 'vitest';
import { GuestMemory } from '../../src/memory/guest-memory.ts';
import { WriteLog } from '../../src/memory/write-log.ts';

describe('a log of writes', () => {
  test('tells pages in the order of their numbers, whatever the order in which they were written; neighbours in two blocks are one range', () => {
    const log = new WriteLog();
    for (const page of [10 * 4096, 2 * 4096, 100 * 4096, 0]) log.note(page, 1);
    expect(log.since(0).map(({ first }) => first / 4096)).toEqual([0, 2, 10, 100]);
    const round = log.endRound();
    log.note(4094, 3);
    expect([log.since(round), log.ended]).toEqual([[{ first: 4094, last: 4096 }], round]);
  });

  test('has of a store the pages that it touches, and no more: the last bytes of one are that page alone', () => {
    const memory = GuestMemory.ofBytes(4 * 4096);
    const [log] = memory.logWrites();
    let round = 0;
    const touched = (store: () => number) => {
      expect(store()).toBe(0);
      const pages = log.since(round);
      round = log.endRound();
      return pages.map(({ first, last }) => [first, last]);
    };
    const ends = [
      () => memory.store64(0, 0xff8, 1, 2),
      () => memory.store32(0, 0xffc, 1),
      () => memory.store16(0, 0xffe, 1),
      () => memory.storeRun64(0, 0xff0, new BigUint64Array(2), 2),
      () => memory.write(0, 0xf00, new Uint8Array(256), 0, 256),
    ];
    for (const store of ends) expect(touched(store)).toEqual([[0, 0]]);
    expect(touched(() => memory.store16(0, 0xfff, 1))).toEqual([[0, 1]]);
    expect(touched(() => memory.store64(0, 0xffc, 1, 2))).toEqual([[0, 1]]);
    expect(touched(() => memory.write(0, 0xfff, new Uint8Array(4098), 0, 4098))).toEqual([[0, 2]]);
    expect(touched(() => memory.write(0, 0x1000, new Uint8Array(1), 0, 0))).toEqual([]);
    expect(touched(() => Math.min(memory.compareExchange64(0, 0x2ff8, 0, 0, 0, 1), 0))).toEqual([[2, 2]]);
  });
});
