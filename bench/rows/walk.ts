import { READ, READ_WRITE } from '../../src/memory/access.ts';
import { GuestMemory } from '../../src/memory/guest-memory.ts';
import type { PageTable } from '../../src/pagetable/page-table.ts';
import { TwoStage } from '../../src/pagetable/two-stage.ts';
import { VtdSecondStageTable } from '../../src/pagetable/vtd-second-stage.ts';
import { X86Table } from '../../src/pagetable/x86.ts';
import { Random } from '../random.ts';
import type { Row, Variant, Work } from '../row.ts';
import { TablePages } from '../table-pages.ts';
import { outputOf } from '../translations.ts';

/** The addresses walked are those of `pages` pages from here on; bench/baseline/walk.c has the same layout. */
const BASE = 0x0000_3412;
const BASE5 = 0x0034_5612;
const TABLE_PAGES = 4096;

/** What a target has of a table when it translates. */
type Walked = Pick<PageTable, 'walk' | 'out'>;

function fill(table: PageTable, baseHi: number, pages: number): void {
  for (let page = 0; page < pages; page++) {
    if (table.map(baseHi * 2 ** 20 + page, outputOf(page), 1, READ_WRITE) !== 1) throw new Error(`page ${page} was not mapped`);
  }
}

function single(levels: 4 | 5, pages: number): Walked {
  const memory = GuestMemory.ofBytes(4 * TABLE_PAGES * 4096);
  const allocator = new TablePages(new Uint8Array(memory.regions[0].buffer), 2 * TABLE_PAGES, 4 * TABLE_PAGES);
  const table = new X86Table(memory, { levels, root: allocator.allocate(1), allocator });
  fill(table, levels === 5 ? BASE5 : BASE, pages);
  return table;
}

/** First-stage tables lie in guest pages 0 to TABLE_PAGES - 1, which the second stage puts TABLE_PAGES further up in memory. */
function nested(pages: number): Walked {
  const memory = GuestMemory.ofBytes(4 * TABLE_PAGES * 4096);
  const { buffer } = memory.regions[0];
  const allocator = new TablePages(new Uint8Array(buffer), 2 * TABLE_PAGES, 4 * TABLE_PAGES);
  // Without large pages: 24 entries are read for one translation.
  const second = new VtdSecondStageTable(memory, { levels: 4, root: allocator.allocate(1), allocator, pages2M: false, pages1G: false });
  second.map(0, TABLE_PAGES, TABLE_PAGES, READ_WRITE);
  for (let page = 0; page < pages; page++) second.map(outputOf(page), outputOf(page) ^ 0x2aa, 1, READ_WRITE);
  const guestAllocator = new TablePages(new Uint8Array(buffer, TABLE_PAGES * 4096), 0, TABLE_PAGES);
  const root = guestAllocator.allocate(1);
  const stages = new TwoStage({ memory, second, first: (tables) => new X86Table(tables, { levels: 4, root }) });
  // Filled from the host's side, where its tables are.
  const window = new GuestMemory([{ gpa: 0n, buffer, offset: TABLE_PAGES * 4096, bytes: TABLE_PAGES * 4096 }]);
  fill(new X86Table(window, { levels: 4, root, allocator: guestAllocator }), BASE, pages);
  return stages;
}

class Walks implements Work {
  readonly operations = 1 << 11;
  readonly #table: Walked;
  readonly #hi: number;
  readonly #order: Int32Array;
  #at = 0;

  constructor(table: Walked, hi: number, pages: number) {
    const random = new Random();
    this.#table = table;
    this.#hi = hi;
    this.#order = Int32Array.from({ length: Math.max(pages, this.operations) }, () => random.next() & (pages - 1));
  }

  batch(): number {
    const table = this.#table;
    const out = table.out;
    const hi = this.#hi;
    const order = this.#order;
    const end = this.#at + this.operations;
    const access = READ;
    let sum = 0;
    for (let i = this.#at; i < end; i++) {
      const lg2 = table.walk(hi, order[i] << 12, access);
      sum = (sum + lg2 + out[0] + out[1] + out[2]) | 0;
    }
    this.#at = end === order.length ? 0 : end;
    return sum;
  }
}

function variants(mode: '4' | '5' | '0', goal: number | null, table: (pages: number) => Walked): Variant[] {
  const sizes = [
    ['16K pages', 1 << 14],
    ['1M pages', 1 << 20],
  ] as const;
  return sizes.map(([name, pages]) => ({
    name,
    goal,
    baseline: { program: 'walk', arguments: [mode, String(pages)] },
    setup: () => new Walks(table(pages), mode === '5' ? BASE5 : BASE, pages),
  }));
}

export const walk4: Row = { name: 'walk4', baseline: 'the same walk in C', variants: variants('4', 1.7, (pages) => single(4, pages)) };
export const walk5: Row = { name: 'walk5', baseline: 'the same walk in C', variants: variants('5', 1.7, (pages) => single(5, pages)) };
export const walkNested: Row = { name: 'walk-nested', baseline: 'the same walk in C', variants: variants('0', 2.2, nested) };
