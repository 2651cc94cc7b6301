import { fc, test as property } from '@fast-check/vitest';
import { describe, expect, test } from 'vitest';
import { EXECUTE, hiOf, joinHiLo, loOf, READ, WRITE } from '../../src/memory/index.ts';
import {
  FAULT_ACCESS_FLAG,
  FAULT_NOT_PRESENT,
  FAULT_PERMISSION,
  faultKind,
  OUT_HI,
  OUT_LO,
  OUT_PERMISSION,
  type TableMemory,
} from '../../src/pagetable/page-table.ts';
import { RiscvTable } from '../../src/pagetable/riscv.ts';
import { BY_FIRST_STAGE, BY_OUTPUT, BY_TABLE_READ, BY_TABLE_WRITE, enumerateTwoStage, TwoStage } from '../../src/pagetable/two-stage.ts';
import { VtdSecondStageTable } from '../../src/pagetable/vtd-second-stage.ts';
import { X86Table } from '../../src/pagetable/x86.ts';
import { TableRam } from './ram.ts';

/*
 * Two-stage translation (RISC-V Privileged Architecture, 18.5; VT-d 4.1, 3.8): both stages over the same memory. Guest page g
 * of the first stage's tables lies at host page g + SHIFT, so that a table read without the second stage is not found.
 */
const PAGES = 512;
const SHIFT = 128;

type Pair = { name: string; make(ram: TableRam, update: boolean): Stages };

interface Stages {
  /** Maps guest pages to host pages. */
  readonly second: RiscvTable | VtdSecondStageTable;
  /** The first stage's tables as their owner sees them: guest-physical memory one to one. */
  readonly writer: RiscvTable | X86Table;
  first(memory: TableMemory): RiscvTable | X86Table;
  secondOver(memory: TableMemory): RiscvTable | VtdSecondStageTable;
}

/** Memory of the guest: its page g is host page g + SHIFT. */
class Shifted implements TableMemory {
  readonly word: Int32Array;
  readonly #memory: TableMemory;

  constructor(memory: TableMemory) {
    this.#memory = memory;
    this.word = memory.word;
  }
  #at(lo: number): number {
    return lo + SHIFT * 4096;
  }
  load64 = (hi: number, lo: number) => this.#memory.load64(hi, this.#at(lo));
  load64BE = (hi: number, lo: number) => this.#memory.load64BE(hi, this.#at(lo));
  load32 = (hi: number, lo: number) => this.#memory.load32(hi, this.#at(lo));
  load32BE = (hi: number, lo: number) => this.#memory.load32BE(hi, this.#at(lo));
  store64 = (hi: number, lo: number, valueHi: number, valueLo: number) => this.#memory.store64(hi, this.#at(lo), valueHi, valueLo);
  store64BE = (hi: number, lo: number, valueHi: number, valueLo: number) => this.#memory.store64BE(hi, this.#at(lo), valueHi, valueLo);
  store32 = (hi: number, lo: number, value: number) => this.#memory.store32(hi, this.#at(lo), value);
  store32BE = (hi: number, lo: number, value: number) => this.#memory.store32BE(hi, this.#at(lo), value);
  compareExchange64 = (hi: number, lo: number, oldHi: number, oldLo: number, newHi: number, newLo: number) =>
    this.#memory.compareExchange64(hi, this.#at(lo), oldHi, oldLo, newHi, newLo);
}

/** Guest pages 1 to 63 for the first stage's tables, one after the other. */
function guestAllocator() {
  let next = 1;
  return { allocate: () => (next < 64 ? next++ : -1), free: () => undefined };
}

const pairs: readonly Pair[] = [
  {
    name: 'RISC-V Sv39 behind Sv48x4',
    make: (ram, update) => {
      const guest = new Shifted(ram.memory);
      const allocator = guestAllocator();
      const root = allocator.allocate();
      const secondRoot = 4;
      const second = (memory: TableMemory) => new RiscvTable({ mode: 'sv48', secondStage: true, memory, root: secondRoot, allocator: ram });
      return {
        second: second(ram.memory),
        secondOver: second,
        writer: new RiscvTable({ mode: 'sv39', memory: guest, root, allocator }),
        first: (memory) => new RiscvTable({ mode: 'sv39', memory, root, updateAccessedDirty: update }),
      };
    },
  },
  {
    name: 'VT-d first stage behind its second',
    make: (ram) => {
      const guest = new Shifted(ram.memory);
      const allocator = guestAllocator();
      const root = allocator.allocate();
      const second = (memory: TableMemory) => new VtdSecondStageTable(memory, { levels: 4, root: 4, allocator: ram });
      return {
        second: second(ram.memory),
        secondOver: second,
        writer: new X86Table(guest, { levels: 4, root, allocator }),
        first: (memory) => new X86Table(memory, { levels: 4, root }),
      };
    },
  },
];

function setUp(pair: Pair, update = false) {
  const ram = new TableRam(PAGES, 256);
  const stages = pair.make(ram, update);
  // The first stage's tables, readable and writable.
  stages.second.map(0, SHIFT, 64, READ | WRITE);
  const both = new TwoStage({ memory: ram.memory, second: stages.second, first: stages.first });
  return { ram, stages, both };
}

describe.each(pairs)('$name', (pair) => {
  test('both stages translate, the smaller page and the permissions of both count', () => {
    const { stages, both } = setUp(pair);
    stages.second.map(0x1000, 0x5000, 0x200, READ | WRITE);
    stages.second.map(0x2000, 0x7000, 1, READ);
    stages.writer.map(0x40200, 0x1000, 0x200, READ | WRITE);
    stages.writer.map(0x50000, 0x2000, 1, READ | WRITE);
    expect(both.walk(0, 0x4020_1234, READ)).toBe(21);
    expect(joinHiLo(both.out[OUT_HI], both.out[OUT_LO])).toBe(0x500_1234n);
    expect(both.walk(0, 0x5000_0008, READ)).toBe(12);
    expect(joinHiLo(both.out[OUT_HI], both.out[OUT_LO])).toBe(0x700_0008n);
    expect(both.out[OUT_PERMISSION] & (READ | WRITE)).toBe(READ);
    // A large page over small ones: not aligned in the second stage's output.
    stages.second.map(0x4000, 0x9001, 0x200, READ);
    stages.writer.map(0x60000, 0x4000, 0x200, READ);
    expect(both.walk(0, 0x6000_3008, READ)).toBe(12);
    expect(joinHiLo(both.out[OUT_HI], both.out[OUT_LO])).toBe(0x900_4008n);
  });

  test('a fault belongs to the stage and the access that met it', () => {
    const { stages, both } = setUp(pair);
    stages.writer.map(0x40000, 0x3000, 1, READ);
    stages.writer.map(0x40001, 0x2000, 1, READ | WRITE);
    stages.second.map(0x2000, 0x7000, 1, READ);
    expect(faultKind(both.walk(0, 0x4123_4000, READ))).toBe(FAULT_NOT_PRESENT);
    expect(both.origin).toBe(BY_FIRST_STAGE);
    expect(faultKind(both.walk(0, 0x4000_0000, WRITE))).toBe(FAULT_PERMISSION);
    expect(both.origin).toBe(BY_FIRST_STAGE);
    expect(faultKind(both.walk(0, 0x4000_0234, READ))).toBe(FAULT_NOT_PRESENT);
    expect([both.origin, joinHiLo(both.gpaHi, both.gpaLo)]).toEqual([BY_OUTPUT, 0x300_0234n]);
    expect(faultKind(both.walk(0, 0x4000_1000, WRITE))).toBe(FAULT_PERMISSION);
    expect([both.origin, joinHiLo(both.gpaHi, both.gpaLo)]).toEqual([BY_OUTPUT, 0x200_0000n]);
    // The first table of the first stage below its root is not mapped any more: the entry's address is told.
    stages.second.unmap(2, 1);
    expect(faultKind(both.walk(0, 0x4000_1000, READ))).toBe(FAULT_NOT_PRESENT);
    expect(both.origin).toBe(BY_TABLE_READ);
    expect(joinHiLo(both.gpaHi, both.gpaLo) >> 12n).toBe(2n);
  });

  test('the budget is of loads, for all runs of the first stage together', () => {
    const { ram, stages } = setUp(pair);
    const pieces = 3 * 512;
    // Three leaves of 2 MiB in the first stage, none of which continues another; single pages that do not either in the second.
    for (let leaf = 0; leaf < 3; leaf++) stages.writer.map(0x40200 + 0x200 * leaf, 0x1000 + 0x400 * leaf, 0x200, READ | WRITE);
    for (let page = 0; page < pieces; page++)
      stages.second.map(0x1000 + page + 0x200 * Math.floor(page / 0x200), 0x8000 + 2 * page, 1, READ | WRITE);
    const tables = { memory: ram.memory, first: stages.first, second: stages.secondOver };
    const seen: number[] = [];
    const visit = (iova: number) => seen.push(iova) > 0;
    for (let next = 0x40200, calls = 0; next < 0x40200 + pieces; calls++) {
      ram.reads = 0;
      next = enumerateTwoStage(tables, next, 0x40200 + pieces - 1, visit, 600);
      expect(ram.reads).toBeLessThanOrEqual(600 + 50);
      expect(calls).toBeLessThan(4);
    }
    expect(seen).toEqual(Array.from({ length: pieces }, (_, page) => 0x40200 + page));
  });

  property.prop(
    [
      fc.array(fc.tuple(fc.nat(40), fc.nat(40), fc.integer({ min: 1, max: 20 }), fc.boolean()), { maxLength: 12 }),
      fc.integer({ min: 10, max: 400 }),
    ],
    {
      numRuns: 40,
    },
  )('enumerates what it walks, in pieces of a bounded budget', (edits, budget) => {
    const { ram, stages, both } = setUp(pair);
    for (const [from, to, pages, isFirst] of edits) {
      if (isFirst) stages.writer.map(0x40000 + from, 0x100 + to, pages, READ | (pages % 2 === 0 ? WRITE : 0));
      else stages.second.map(0x100 + from, 0x10000 + to, pages, READ | WRITE);
    }
    const runs: [number, number, number, number][] = [];
    const tables = { memory: ram.memory, first: stages.first, second: stages.secondOver };
    for (let next = 0x3fff0; next <= 0x40050; ) {
      const reached = enumerateTwoStage(tables, next, 0x40050, (...run) => runs.push(run) > 0, budget);
      expect(reached).toBeGreaterThan(next);
      next = reached;
    }
    for (let page = 0x3fff0; page <= 0x40050; page++) {
      const run = runs.find(([iova, , pages]) => page >= iova && page < iova + pages);
      for (const access of [READ, WRITE]) {
        const address = BigInt(page) << 12n;
        const lg2 = both.walk(hiOf(address), loOf(address), access);
        const expected = run !== undefined && (run[3] & access) !== 0 ? run[1] + page - run[0] : -1;
        expect(lg2 < 0 ? -1 : Number(joinHiLo(both.out[OUT_HI], both.out[OUT_LO]) >> 12n)).toBe(expected);
      }
    }
  });
});

test('the address that the second stage refused is told whole, above 4 GiB too', () => {
  const { ram, stages } = setUp(pairs[1]);
  const first = (memory: TableMemory) => new X86Table(memory, { levels: 4, root: 0x30_0002 });
  const both = new TwoStage({ memory: ram.memory, second: stages.second, first });
  expect(faultKind(both.walk(0, 0x4000_1000, READ))).toBe(FAULT_NOT_PRESENT);
  expect([both.origin, joinHiLo(both.gpaHi, both.gpaLo)]).toEqual([BY_TABLE_READ, 0x3_0000_2000n]);
});

test('pages of the second stage’s tables are told of before they are read, each as often as another was in between', () => {
  const { ram, stages } = setUp(pairs[1]);
  stages.second.map(0x1000, 0x5000, 2, READ | WRITE);
  stages.writer.map(0x40200, 0x1000, 1, READ | WRITE);
  const pages: number[] = [];
  const tables = {
    memory: ram.memory,
    first: stages.first,
    second: stages.secondOver,
    secondRead: (page: number) => void pages.push(page),
  };
  enumerateTwoStage(tables, 0x40200, 0x40200, () => true, 600);
  const before = pages.splice(0);
  // The root, one table of each of the next levels, and two leaf tables; the allocator begins at page 256.
  expect(new Set(before.filter((page) => page === 4 * 4096 || page >= 256 * 4096)).size).toBe(5);
  expect(before.every((page, i) => page !== before[i - 1])).toBe(true);
});

test('RISC-V: A and D of a first stage are set through the second, which must allow it (18.5.1)', () => {
  const { ram, stages, both } = setUp(pairs[0], true);
  const { memory } = ram;
  stages.second.map(0x2000, 0x7000, 1, READ | WRITE);
  stages.writer.map(0x40000, 0x2000, 1, READ | WRITE | EXECUTE);
  // Root, middle and leaf tables are guest pages 1 to 3.
  const leaf = (SHIFT + 3) * 4096;
  const entry = () => {
    memory.load64(0, leaf);
    return memory.word[0];
  };
  const clean = entry() & ~0xc0;
  memory.store64(0, leaf, 0, clean);
  expect(both.walk(0, 0x4000_0000, READ)).toBe(12);
  expect(entry()).toBe(clean | 0x40);
  expect(both.walk(0, 0x4000_0000, WRITE)).toBe(12);
  expect(entry()).toBe(clean | 0xc0);
  // Read-only for the second stage: reading the entry is allowed, updating it is not, and it stays as it was.
  memory.store64(0, leaf, 0, clean);
  stages.second.unmap(3, 1);
  stages.second.map(3, SHIFT + 3, 1, READ);
  expect(faultKind(both.walk(0, 0x4000_0000, READ))).toBe(FAULT_PERMISSION);
  expect([both.origin, joinHiLo(both.gpaHi, both.gpaLo)]).toEqual([BY_TABLE_WRITE, 0x3000n]);
  expect(entry()).toBe(clean);
  // Where nobody updates, the first stage itself refuses.
  const fixed = new TwoStage({ memory, second: stages.second, first: (over) => new RiscvTable({ mode: 'sv39', memory: over, root: 1 }) });
  expect(faultKind(fixed.walk(0, 0x4000_0000, READ))).toBe(FAULT_ACCESS_FLAG);
  expect(fixed.origin).toBe(BY_FIRST_STAGE);
});
