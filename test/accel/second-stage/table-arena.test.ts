import { beforeEach, describe, expect, test } from 'vitest';
import { StagePages, TableArena } from '../../../src/accel/second-stage/table-arena.ts';
import type { NestingParent } from '../../../src/host/host.ts';

const END = 2 ** 36;
const LIMIT = 1 << 16;

describe('memory for tables', () => {
  let maps: [first: number, pages: number][];
  let released: number;
  let answer: number;
  let host: NestingParent;
  let arena: TableArena;

  beforeEach(() => {
    maps = [];
    released = 0;
    answer = 0;
    // All pieces lie in one buffer: nothing but the zeroing of pages looks at it.
    const buffer = new SharedArrayBuffer((LIMIT / 2) * 4096);
    const parent = {
      allocate: () => ({ buffer, address: 0x7000_0000n, bytes: buffer.byteLength, release: () => void released++ }),
      space: { map: (first: number, _host: number, pages: number) => (answer < 0 ? answer : maps.push([first, pages]) && 0) },
    };
    host = parent as unknown as NestingParent;
    arena = new TableArena(host, END, 0);
  });

  test('grows downward by doubling, one host call a piece, to 2^16 pages and no further', () => {
    const pages = Array.from({ length: LIMIT }, () => arena.allocate());
    expect(new Set(pages).size).toBe(LIMIT);
    expect([Math.min(...pages), Math.max(...pages)]).toEqual([END - LIMIT, END - 1]);
    const sizes = maps.map(([, size]) => size);
    expect(sizes).toEqual([256, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768]);
    expect(arena.allocate()).toBe(-1);
    expect(maps.length).toBe(sizes.length);
    arena.free(pages[7]);
    expect(arena.allocate()).toBe(pages[7]);
  });

  test.each([
    ['512 KiB', 128, 256],
    ['1 GiB', 2 ** 18, 1024],
    ['1 TiB', 2 ** 28, 2 ** 14],
  ])('the first piece holds the tables of one that maps %s page by page, up to 64 MiB', (_, mapped, first) => {
    const made = new TableArena(host, END, mapped);
    // The tables of 4 GiB: 2,048 with leaves, and those above them.
    for (let i = 0; i < Math.min(mapped, 2 ** 20) / 512 + 8; i++) made.allocate();
    expect(maps).toEqual([[END - first, first]]);
  });

  test('a piece that the host does not map is given back, and can be had later', () => {
    answer = -12;
    expect([arena.allocate(), released]).toEqual([-1, 1]);
    answer = 0;
    expect(arena.allocate()).toBe(END - 256);
    arena.release();
    expect(released).toBe(2);
  });

  test('a page that a stage gave back is used again once the hardware has forgotten it; all of them once the stage is gone', () => {
    const stage = new StagePages(arena);
    const pages = Array.from({ length: 256 }, () => stage.allocate(1));
    stage.free(pages[3]);
    expect(new StagePages(arena).allocate(1)).not.toBe(pages[3]);
    expect(maps.length).toBe(2);
    stage.reclaim();
    expect(arena.allocate()).toBe(pages[3]);
    stage.release();
    const again = new Set(Array.from({ length: 255 }, () => arena.allocate()));
    expect([...again].every((page) => pages.includes(page))).toBe(true);
    expect(stage.allocate(2)).toBe(-1);
  });
});
