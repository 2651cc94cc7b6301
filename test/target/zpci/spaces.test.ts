import { describe, expect, test } from 'vitest';
import { READ_WRITE } from '../../../src/memory/access.ts';
import { GuestMemory } from '../../../src/memory/guest-memory.ts';
import type { AddressSpace } from '../../../src/target/target.ts';
import { RelaxedSpace, TableSpace } from '../../../src/target/zpci/spaces.ts';

/* Where a function's aperture (PBA to PAL), what its tables translate, and guest RAM meet, and where they do not. */

const memory = () =>
  new GuestMemory([
    { gpa: 0n, buffer: new SharedArrayBuffer(8 * 4096) },
    { gpa: 0x10000n, buffer: new SharedArrayBuffer(4 * 4096) },
  ]);

function runsOf(space: AddressSpace, first: number, last: number) {
  const runs: number[][] = [];
  const reached = space.enumerate(first, last, (iova, gpa, pages, permission) => runs.push([iova, gpa, pages, permission]) > 0);
  return { runs, reached };
}

describe('relaxed translation (IOTA.T = 0)', () => {
  const BASE = 0x100;
  /** Pages 0x102 to 0x111 of the function. */
  const space = () => new RelaxedSpace(1, { pba: 0x102000n, pal: 0x111fffn, iota: 0n }, BASE, memory());

  test('is RAM above the start of the aperture, within what was registered', () => {
    expect(runsOf(space(), 0, 0x1000)).toEqual({
      runs: [
        [0x102, 2, 6, READ_WRITE],
        [0x110, 0x10, 2, READ_WRITE],
      ],
      reached: 0x1001,
    });
  });

  test('is nothing below, above, and where nothing is registered or no RAM', () => {
    for (const [first, last] of [
      [0, 0x101],
      [0x112, 0x200],
      [0x108, 0x10f],
    ])
      expect(runsOf(space(), first, last)).toEqual({ runs: [], reached: last + 1 });
    const below = new RelaxedSpace(1, { pba: 0n, pal: 0xfffffn, iota: 0n }, BASE, memory());
    expect(runsOf(below, 0, 0xff)).toEqual({ runs: [], reached: 0x100 });
    expect([0x100, 0x107, 0x108, 0x110, 0x114, 0xff].map((page) => space().pageOf(page))).toEqual([0, 7, -1, 0x10, -1, -1]);
  });

  test('goes on behind the run at which its visitor has stopped', () => {
    expect(space().enumerate(0, 0x1000, () => false)).toBe(0x108);
  });
});

describe('tables', () => {
  const tables = (pba: bigint, pal: bigint) => new TableSpace(1, { pba, pal, iota: 0x800n }, memory());

  test('of a segment table reach 2 GiB: an aperture beyond has no pages, one across it fewer', () => {
    expect(tables(0x7fff_f000n, 0x8000_1fffn).apertures).toEqual([{ first: 0x7ffff, last: 0x7ffff }]);
    const beyond = tables(0x8000_0000n, 0x8000_1fffn);
    expect(beyond.apertures).toEqual([]);
    expect(runsOf(beyond, 0, 0x90000)).toEqual({ runs: [], reached: 0x90001 });
  });
});
