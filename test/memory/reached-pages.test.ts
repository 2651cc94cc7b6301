import { beforeEach, describe, expect, test } from 'vitest';
import type { GuestRegion } from '../../src/memory/guest-memory.ts';
import { ReachedPages } from '../../src/memory/reached-pages.ts';

describe('pages that hardware reaches', () => {
  let reached: ReachedPages;
  let populated: [first: number, pages: number][];
  let refuses: (first: number) => boolean;

  const region = (first: number, pages: number, discardable = true): GuestRegion => ({
    gpa: BigInt(first) << 12n,
    buffer: new SharedArrayBuffer(pages * 4096),
    ...(discardable && {
      populate: (gpa: bigint, bytes: number) => {
        populated.push([Number(gpa >> 12n), bytes / 4096]);
        return !refuses(Number(gpa >> 12n));
      },
    }),
  });

  beforeEach(() => {
    reached = new ReachedPages();
    populated = [];
    refuses = () => false;
  });

  test('are counted for as long as their region is there, whatever comes and goes beside it', () => {
    const [stays, goes] = [region(0, 8), region(16, 8)];
    reached.follow([stays, goes]);
    reached.add(2, 1);
    reached.add(16, 1);
    reached.follow([stays, region(32, 8)]);
    expect([reached.isFree(2, 1), reached.isFree(3, 1)]).toEqual([false, true]);
    reached.add(2, 1);
    expect(populated).toEqual([
      [2, 1],
      [16, 1],
    ]);
    // What comes back begins anew.
    reached.follow([stays, goes]);
    expect(reached.isFree(16, 1)).toBe(true);
  });

  test('are free when all of them are discardable, and nothing reaches any', () => {
    reached.follow([region(0, 8), region(8, 8, false), region(16, 8)]);
    expect([reached.isFree(0, 8), reached.isFree(7, 2), reached.isFree(8, 1), reached.isFree(100, 1)]).toEqual([true, false, false, false]);
    reached.follow([region(0, 8), region(8, 8)]);
    expect(reached.isFree(4, 8)).toBe(true);
    reached.add(9, 1);
    expect([reached.isFree(4, 8), reached.isFree(4, 5)]).toEqual([false, true]);
  });

  test('are reached until each that reaches them has let go, and not less than never', () => {
    reached.follow([region(0, 8)]);
    reached.add(0, 4);
    reached.add(2, 4);
    reached.remove(0, 4);
    expect([reached.isFree(0, 2), reached.isFree(2, 1), reached.isFree(5, 1)]).toEqual([true, false, false]);
    reached.remove(2, 4);
    reached.remove(0, 8);
    reached.add(0, 1);
    expect(reached.isFree(0, 1)).toBe(false);
  });

  test('over two regions are populated in each; where one cannot be, none counts', () => {
    reached.follow([region(0, 8), region(8, 8)]);
    refuses = (first) => first === 8;
    expect(reached.add(6, 4)).toBe(false);
    expect([populated, reached.isFree(6, 2)]).toEqual([
      [
        [6, 2],
        [8, 2],
      ],
      true,
    ]);
    refuses = () => false;
    expect(reached.add(6, 4)).toBe(true);
    populated.length = 0;
    // Only the runs that nothing reaches.
    reached.add(4, 8);
    expect(populated).toEqual([
      [4, 2],
      [10, 2],
    ]);
  });

  test('of other regions nothing is asked', () => {
    reached.follow([region(0, 8, false)]);
    expect([reached.add(0, 8), populated]).toEqual([true, []]);
  });
});
