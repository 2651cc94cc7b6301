import { beforeEach, describe, expect, test } from 'vitest';
import { BLOCK_PAGES, DemandSpace } from '../../../src/accel/on-demand/demand-space.ts';
import { MMIO, READ, READ_WRITE, WRITE } from '../../../src/memory/access.ts';
import { GuestMemory } from '../../../src/memory/guest-memory.ts';
import { ToySpace } from '../toy-space.ts';

/* What hardware has of a space whose devices ask for their pages: blocks of it, and which of them it had to give up. */

const RAM = new SharedArrayBuffer(64 * 4096);
const ROM = new SharedArrayBuffer(4096);
const ROM_AT = 0x100;

describe('a space that is filled on demand', () => {
  let toy: ToySpace;
  let space: DemandSpace;
  let changed: [number, number][];

  const block = (number: number): [number, number] => [number * BLOCK_PAGES, (number + 1) * BLOCK_PAGES - 1];
  /** Runs of [first, last] as first page and pages from the toy's first page on, and where the enumeration ended. */
  const runs = (first = 0, last = 63) => {
    const found: [number, number][] = [];
    const next = space.enumerate(toy.base + first, toy.base + last, (iova, _gpa, pages) => {
      found.push([iova - toy.base, pages]);
      return true;
    });
    return { found, next: next - toy.base };
  };
  const ask = (page: number, access = READ) => space.admit(toy.base + page, access);

  beforeEach(() => {
    toy = new ToySpace('guest');
    toy.set(0, 64, 0, READ_WRITE);
    const memory = new GuestMemory([
      { gpa: 0n, buffer: RAM, hostAddress: 0x1000_0000n },
      { gpa: BigInt(ROM_AT) << 12n, buffer: ROM, hostAddress: 0x2000_0000n, readOnly: true },
    ]);
    space = new DemandSpace(toy, memory, 2);
    changed = [];
    space.path = { changed: (first, last) => void changed.push([first, last]), settle: () => true };
  });

  test('has nothing, and then whole blocks of what was asked for, neighbours joined and in order', () => {
    expect(runs()).toEqual({ found: [], next: 64 });
    ask(2 * BLOCK_PAGES + 1);
    ask(0);
    expect(runs().found).toEqual([
      [0, BLOCK_PAGES],
      [2 * BLOCK_PAGES, BLOCK_PAGES],
    ]);
    space = new DemandSpace(toy, GuestMemory.ofBytes(64 * 4096, 0x1000_0000n));
    for (const number of [3, 1, 2]) ask(number * BLOCK_PAGES);
    // One stretch: its pages are one run.
    expect(runs().found).toEqual([[BLOCK_PAGES, 3 * BLOCK_PAGES]]);
  });

  test('tells of a range what lies in it, and no more', () => {
    ask(0);
    ask(BLOCK_PAGES);
    expect(runs(3, BLOCK_PAGES + 1)).toEqual({ found: [[3, BLOCK_PAGES - 1]], next: BLOCK_PAGES + 2 });
    // Few pages of many blocks are found by page, many pages of few by block.
    expect(runs(3, 3)).toEqual({ found: [[3, 1]], next: 4 });
  });

  test('ends where the space’s own enumeration ends, or whoever is told wants no more', () => {
    ask(0);
    ask(2 * BLOCK_PAGES);
    toy.reach = 5;
    expect(runs()).toEqual({ found: [[0, 5]], next: 5 });
    toy.reach = 64;
    expect(space.enumerate(toy.base, toy.base + 63, () => false) - toy.base).toBe(BLOCK_PAGES);
  });

  test('gives up the block that was asked for longest ago, and says both', () => {
    const first = toy.base / BLOCK_PAGES;
    ask(0);
    ask(BLOCK_PAGES);
    ask(1);
    expect(changed).toEqual([block(first), block(first + 1), block(first)]);
    changed.length = 0;
    ask(2 * BLOCK_PAGES);
    expect(changed).toEqual([block(first + 1), block(first + 2)]);
    expect([space.resident, runs().found.map(([at]) => at / BLOCK_PAGES)]).toEqual([2, [0, 2]]);
  });

  test.each([
    ['RAM', 3, READ_WRITE, READ_WRITE, 'resident'],
    ['what its guest has not mapped', 3, 0, READ, 'unmapped'],
    ['what its guest has not mapped so', 3, READ, WRITE, 'unmapped'],
    ['ROM, to be read', ROM_AT, READ_WRITE, READ, 'resident'],
    ['ROM, to be written', ROM_AT, READ_WRITE, WRITE, 'unreachable'],
    ['no memory', 0x200, READ_WRITE, READ, 'unreachable'],
    ['an interrupt file', 3, READ_WRITE | MMIO, WRITE, 'unreachable'],
    ['an access of no kind, which is a read', 3, WRITE, 0, 'unmapped'],
  ])('%s', (_, gpa, granted, access, answer) => {
    toy.set(0, 64, 0, 0);
    if (granted !== 0) toy.set(7, 1, gpa, granted);
    expect(ask(7, access)).toBe(answer);
    expect([space.resident, changed.length]).toEqual(answer === 'resident' ? [1, 1] : [0, 0]);
  });
});
