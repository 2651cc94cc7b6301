import { READ, READ_WRITE } from '../../src/memory/access.ts';
import { hiOf, loOf } from '../../src/memory/address.ts';
import { GuestMemory } from '../../src/memory/guest-memory.ts';
import { RiscvTable } from '../../src/pagetable/riscv.ts';
import { RiscvIommu } from '../../src/target/riscv/index.ts';
import { NO_PASID } from '../../src/target/target.ts';
import { Random } from '../random.ts';
import type { Row, Work } from '../row.ts';
import { TablePages } from '../table-pages.ts';

/** Sv48, Svpbmt, the command queue; PAS 46. bench/baseline/riscv.c has the same layout. */
const CAPABILITIES = 0x10n | (7n << 9n) | (1n << 15n) | (46n << 32n);
const TABLE_PAGES = 4096;
const FIRST_PAGE = 0x20_0000;
const BASE = 0x3412;
const DEVICE = 8;
const PSCID = 5;

/** Offsets of registers ("Register layout"). */
const DDTP = 16;
const CQB = 24;
const CQH = 32;
const CQT = 36;
const CQCSR = 72;

/** A device behind Sv48 tables of `pages` pages, each with an entry of its own. */
function iommuWith(pages: number, iotlbEntries: number): RiscvIommu {
  const memory = GuestMemory.ofBytes(TABLE_PAGES * 4096);
  const allocator = new TablePages(new Uint8Array(memory.regions[0].buffer), 2, TABLE_PAGES);
  const root = allocator.allocate(1);
  const table = new RiscvTable({ mode: 'sv48', memory, root, allocator, svpbmt: true });
  for (let page = 0; page < pages; page++) table.map(BASE * 2 ** 20 + page, FIRST_PAGE + (page ^ 0x155), 1, READ_WRITE);
  // One level of base-format contexts in page 1.
  const words = [1n, 0n, BigInt(PSCID) << 12n, (9n << 60n) | BigInt(root)];
  for (const [i, word] of words.entries()) memory.store64(0, 4096 + DEVICE * 32 + i * 8, hiOf(word), loOf(word));
  const iommu = new RiscvIommu({ capabilities: CAPABILITIES, iotlbEntries }, { memory });
  iommu.write(DDTP, 8, (1n << 10n) | 2n);
  return iommu;
}

class Translations implements Work {
  readonly operations = 1 << 13;
  readonly #iommu: RiscvIommu;
  readonly #order: Int32Array;
  #at = 0;

  constructor(iommu: RiscvIommu, pages: number) {
    const random = new Random();
    this.#iommu = iommu;
    this.#order = Int32Array.from({ length: Math.max(pages, this.operations) }, () => random.next() & (pages - 1));
  }

  batch(): number {
    const iommu = this.#iommu;
    const { translated } = iommu;
    const order = this.#order;
    const end = this.#at + this.operations;
    let sum = 0;
    for (let i = this.#at; i < end; i++) {
      const lg2 = iommu.translate(DEVICE, NO_PASID, BASE, order[i] << 12, READ);
      sum = (sum + lg2 + translated[0] + translated[1]) | 0;
    }
    this.#at = end === order.length ? 0 : end;
    return sum;
  }
}

const QUEUE = 0x10_0000;
const COMMANDS = 2048;

/** A full queue of IOTINVAL.VMA, each of one page of one of 16 processes. */
class Commands implements Work {
  readonly operations = COMMANDS - 1;
  readonly #iommu: RiscvIommu;
  #tail = 0;

  constructor() {
    const memory = GuestMemory.ofBytes(QUEUE + COMMANDS * 16);
    this.#iommu = new RiscvIommu({ capabilities: CAPABILITIES }, { memory });
    for (let i = 0; i < COMMANDS; i++) {
      const low = 1n | (1n << 10n) | (BigInt(i & 15) << 12n) | (1n << 32n);
      const high = BigInt(i * 7) << 10n;
      memory.store64(0, QUEUE + i * 16, hiOf(low), loOf(low));
      memory.store64(0, QUEUE + i * 16 + 8, hiOf(high), loOf(high));
    }
    this.#iommu.write(CQB, 8, (BigInt(QUEUE / 4096) << 10n) | 10n);
    this.#iommu.write(CQCSR, 4, 1n);
  }

  batch(): number {
    this.#tail = (this.#tail + COMMANDS - 1) % COMMANDS;
    this.#iommu.write(CQT, 4, BigInt(this.#tail));
    return Number(this.#iommu.read(CQH, 4));
  }
}

const PAGES = 1 << 14;

export const translateHit: Row = {
  name: 'riscv-translate-hit',
  baseline: 'the same lookup in C',
  variants: [
    {
      name: '16K pages',
      goal: 1.9,
      baseline: { program: 'riscv', arguments: ['hit', String(PAGES)] },
      setup: () => new Translations(iommuWith(PAGES, 2 * PAGES), PAGES),
    },
  ],
};

export const translateMiss: Row = {
  name: 'riscv-translate-miss',
  baseline: 'the same lookup, Sv48 walk and fill in C',
  variants: [
    {
      name: '16K pages',
      goal: null,
      baseline: { program: 'riscv', arguments: ['miss', String(PAGES)] },
      setup: () => new Translations(iommuWith(PAGES, 16), PAGES),
    },
  ],
};

export const commands: Row = {
  name: 'riscv-commands',
  baseline: 'the same decoding and invalidation in C',
  variants: [{ name: 'IOTINVAL.VMA', goal: 1.7, baseline: { program: 'riscv', arguments: ['commands'] }, setup: () => new Commands() }],
};
