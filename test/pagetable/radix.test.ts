import { describe, expect, it, test } from 'vitest';
import { GuestMemory, READ, READ_WRITE, WRITE } from '../../src/memory/index.ts';
import { AmdV1Table } from '../../src/pagetable/amd-v1.ts';
import { FAULT_TABLE_ACCESS, faultCode, type PageTable, type TableMemory } from '../../src/pagetable/page-table.ts';
import { RiscvTable } from '../../src/pagetable/riscv.ts';
import { VtdSecondStageTable } from '../../src/pagetable/vtd-second-stage.ts';
import { X86Table } from '../../src/pagetable/x86.ts';
import { TableRam } from './ram.ts';

/** What the shared body cannot say of all formats: the corners of what they share. */

const ROOT = 1;
const PAGES_2M = 512;

function x86(ram = new TableRam(64, 2)): { ram: TableRam; table: PageTable } {
  return { ram, table: new X86Table(ram.memory, { levels: 4, root: ROOT, allocator: ram }) };
}

function runsOf(table: PageTable, first = 0, last = 2 ** 27): number[][] {
  const runs: number[][] = [];
  table.enumerate(first, last, (...run) => runs.push(run) > 0, 1e6);
  return runs;
}

describe('a split', () => {
  it.each([
    ['x86-64: A and D (SDM 5.8)', (ram: TableRam) => new X86Table(ram.memory, { levels: 4, root: ROOT, allocator: ram }), 0x60n],
    [
      'VT-d second stage: A and D (VT-d 3.7.2)',
      (ram: TableRam) => new VtdSecondStageTable(ram.memory, { levels: 4, root: ROOT, allocator: ram, accessedDirty: true }),
      0x300n,
    ],
    [
      'AMD v1: A and D (48882 table 17)',
      (ram: TableRam) => new AmdV1Table(ram.memory, { levels: 4, root: ROOT, allocator: ram, accessedDirty: 'both' }),
      0x60n,
    ],
  ])('keeps what hardware noted in the entry: %s', (_name, create, marks) => {
    const ram = new TableRam(64, 2);
    const table = create(ram);
    table.map(0, PAGES_2M, PAGES_2M, READ_WRITE);
    expect(table.walk(0, 0x5000, WRITE)).toBe(21);
    expect(table.unmap(7, 1)).toBe(1);
    // The table that the split made is the last of three that were allocated: root, then levels 2, 1 and 0.
    for (const index of [0, 6, 8, 511]) {
      const entry = ram.load(BigInt((ROOT + 1 + 2) * 4096 + index * 8), 8, false)!;
      expect(entry & marks).toBe(marks);
      expect((entry >> 12n) & 0xfffffn).toBe(BigInt(PAGES_2M + index));
    }
  });
});

test('a split of 512 GiB keeps the memory type in every entry, above 16 GiB too (RISC-V, Svpbmt)', () => {
  const ram = new TableRam(64, 2);
  const table = new RiscvTable({ mode: 'sv48', memory: ram.memory, root: ROOT, allocator: ram, svpbmt: true });
  // Entry 1: D, A, U, W, R, V and PBMT 2 (IO); output 512 GiB.
  const io = 2n << 61n;
  ram.store(BigInt(ROOT * 4096 + 8), 8, false, ((2n ** 39n) >> 2n) | 0xd7n | io);
  expect(table.unmap(2 ** 27, 2 ** 18)).toBe(2 ** 18);
  for (const index of [1, 15, 16, 511]) {
    const entry = ram.load(BigInt((ROOT + 1) * 4096 + index * 8), 8, false)!;
    expect(entry & (3n << 61n)).toBe(io);
    expect(((entry >> 10n) & (2n ** 44n - 1n)) << 12n).toBe(2n ** 39n + BigInt(index) * 2n ** 30n);
  }
});

describe('unmap leaves what is no leaf, however like one it looks', () => {
  const config = { levels: 4, root: ROOT } as const;
  /** A table of level 0 or 1, a leaf, by how much the next leaf's address is more, and the bits that make one malformed. */
  it.each<[string, (ram: TableRam) => PageTable, level: 0 | 1, leaf: bigint, step: bigint, bits: bigint]>([
    [
      'a bit below a 2 MiB page (SDM table 5-17)',
      (ram) => new X86Table(ram.memory, { ...config, allocator: ram }),
      1,
      0xe7n,
      1n << 21n,
      1n << 13n,
    ],
    [
      'a reserved address bit (SDM 5.5.4)',
      (ram) => new X86Table(ram.memory, { ...config, allocator: ram, outputBits: 40 }),
      0,
      7n,
      4096n,
      1n << 45n,
    ],
    [
      'SNP without ECAP.SC (VT-d 9.8)',
      (ram) => new VtdSecondStageTable(ram.memory, { ...config, allocator: ram, snoopControl: false }),
      0,
      3n,
      4096n,
      1n << 11n,
    ],
    [
      'an encoded size that the level has not (AMD 48882, table 15)',
      (ram) => new AmdV1Table(ram.memory, { ...config, allocator: ram }),
      0,
      0x6000_0000_0000_0e01n,
      0n,
      0x1f_f000n,
    ],
    [
      'an address of N that is not 64 KiB (RISC-V, Svnapot)',
      (ram) => new RiscvTable({ mode: 'sv48', memory: ram.memory, root: ROOT, allocator: ram }),
      0,
      (1n << 63n) | (8n << 10n) | 0xd7n,
      0n,
      1n << 10n,
    ],
    [
      'a misaligned superpage (RISC-V)',
      (ram) => new RiscvTable({ mode: 'sv48', memory: ram.memory, root: ROOT, allocator: ram }),
      1,
      0xd7n,
      1n << 19n,
      1n << 11n,
    ],
  ])('%s', (_name, create, level, leaf, step, bits) => {
    const ram = new TableRam(64, 2);
    const table = create(ram);
    const pages = level === 0 ? 1 : PAGES_2M;
    expect(table.map(20 * pages, 0, pages, READ_WRITE)).toBe(pages);
    const at = (index: number) => BigInt((ROOT + 3 - level) * 4096 + 8 * index);
    for (let i = 0; i < 16; i++) ram.store(at(i), 8, false, leaf + BigInt(i) * step);
    const malformed = (leaf + 5n * step) | bits;
    ram.store(at(5), 8, false, malformed);
    expect(table.unmap(0, 16 * pages)).toBe(15 * pages);
    expect(Array.from({ length: 16 }, (_, i) => ram.load(at(i), 8, false))).toEqual([0n, 0n, 0n, 0n, 0n, malformed, ...Array(10).fill(0n)]);
    expect(table.unmap(20 * pages, pages)).toBe(pages);
    expect(ram.inUse).toBe(3 - level);
  });

  it('and clears leaves that hardware marked, each in its way', () => {
    const { ram, table } = x86();
    table.map(0, 8, 8, READ_WRITE);
    for (const page of [1, 2, 5]) table.walk(0, page * 4096, page === 2 ? WRITE : READ);
    expect(table.unmap(0, 8)).toBe(8);
    expect(ram.inUse).toBe(0);
  });
});

describe('enumerate', () => {
  it('examines nothing without a budget, and says from where to go on', () => {
    const { table } = x86();
    table.map(8, 8, 8, READ);
    expect(table.enumerate(5, 100, () => true, 0)).toBe(5);
  });

  it('ends when the visitor wants no more, after the run that it saw', () => {
    const { table } = x86();
    for (const iova of [10, 20, 30]) table.map(iova, iova, 4, READ);
    const seen: number[] = [];
    expect(table.enumerate(0, 1000, (iova) => seen.push(iova) < 2, 1e6)).toBe(24);
    expect(seen).toEqual([10, 20]);
  });
});

describe('AMD v1 tables that leave levels out (48882, 2.2.3)', () => {
  /** Root of 4 levels whose entry 0 points to a table of level 1: bits 38:21 of the input must be 0. */
  function skipping(): { ram: TableRam; table: PageTable } {
    const ram = new TableRam(64, 4);
    const table = new AmdV1Table(ram.memory, { levels: 4, root: 2, allocator: ram });
    const present = 1n | (3n << 61n);
    ram.store(0x2000n, 8, false, 0x3000n | (1n << 9n) | present);
    ram.store(0x3000n, 8, false, 0x7000n | present);
    return { ram, table };
  }

  it('are enumerated and unmapped where they cover something only', () => {
    const { table, ram } = skipping();
    expect(runsOf(table)).toEqual([[0, 7, 1, READ_WRITE]]);
    expect(table.unmap(PAGES_2M, PAGES_2M)).toBe(0);
    expect(runsOf(table)).toEqual([[0, 7, 1, READ_WRITE]]);
    expect(ram.inUse).toBe(0);
  });

  it('get the tables that they left out when something is mapped beside', () => {
    const { table, ram } = skipping();
    expect(table.map(PAGES_2M, 0x10, 1, READ)).toBe(1);
    expect(runsOf(table)).toEqual([
      [0, 7, 1, READ_WRITE],
      [PAGES_2M, 0x10, 1, READ],
    ]);
    expect(table.walk(0, 0x20_0000, READ)).toBe(12);
    expect(table.unmap(PAGES_2M, 1)).toBe(1);
    expect(runsOf(table)).toEqual([[0, 7, 1, READ_WRITE]]);
    expect(ram.inUse).toBe(2);
  });

  it('stay as they are when there is no memory for those tables', () => {
    const { table, ram } = skipping();
    ram.allowed = 0;
    expect(table.map(PAGES_2M, 0x10, 1, READ)).toBe(0);
    expect(runsOf(table)).toEqual([[0, 7, 1, READ_WRITE]]);
  });
});

describe('malformed entries of others', () => {
  it('are neither overwritten by map nor freed by unmap', () => {
    const { table, ram } = x86();
    table.map(0, 0, 2, READ);
    const malformed = 1n | (1n << 7n) | (1n << 13n);
    ram.store(BigInt(3 * 4096 + 8), 8, false, malformed);
    expect(table.map(PAGES_2M, PAGES_2M, PAGES_2M, READ)).toBe(0);
    expect(table.unmap(0, 2 ** 20)).toBe(2);
    expect(ram.load(BigInt(3 * 4096 + 8), 8, false)).toBe(malformed);
    expect(ram.inUse).toBe(2);
  });
});

describe('a table without an allocator', () => {
  it('can be read, not written', () => {
    const table = new X86Table(GuestMemory.ofBytes(8192), { levels: 4, root: 0 });
    expect(runsOf(table)).toEqual([]);
    expect(() => table.map(0, 0, 1, READ)).toThrow(TypeError);
  });
});

describe('an entry that somebody else changes during the walk (SDM 5.8: accessed bits are set by locked updates)', () => {
  /** Memory in which the first `losses` updates come too late, the entry having been given another page meanwhile. */
  function contended(ram: TableRam, at: number, losses: number): TableMemory {
    let left = losses;
    return {
      ...ram.memory,
      compareExchange64: (hi, lo, ...rest) => {
        if (lo !== at || left-- <= 0) return ram.memory.compareExchange64(hi, lo, ...rest);
        ram.store(BigInt(at), 8, false, 0x7000n + BigInt(left) * 0x1000n + 7n);
        return 0;
      },
    };
  }

  it('is read again, and the translation is what was read together with the bit set', () => {
    const { table, ram } = x86();
    table.map(0, 3, 1, READ_WRITE);
    const leaf = (ROOT + 1 + 2) * 4096;
    const walker = new X86Table(contended(ram, leaf, 3), { levels: 4, root: ROOT });
    expect(walker.walk(0, 0x123, WRITE)).toBe(12);
    expect(walker.out[0]).toBe(0x7123);
    expect(ram.load(BigInt(leaf), 8, false)).toBe(0x7067n);
  });

  it('ends the walk when it never holds still', () => {
    const { table, ram } = x86();
    table.map(0, 3, 1, READ_WRITE);
    const walker = new X86Table(contended(ram, (ROOT + 1 + 2) * 4096, 1000), { levels: 4, root: ROOT });
    ram.reads = 0;
    expect(walker.walk(0, 0, READ)).toBe(faultCode(FAULT_TABLE_ACCESS, 0));
    expect(ram.reads).toBeLessThan(30);
  });
});
