import { GuestMemory } from '../../src/memory/guest-memory.ts';
import { RiscvTable } from '../../src/pagetable/riscv.ts';
import { RiscvIommu } from '../../src/target/riscv/index.ts';
import type { Row, Work } from '../row.ts';
import { putWords } from '../structures.ts';
import { TablePages } from '../table-pages.ts';
import { mapPages, PAGES, Translations } from '../translations.ts';

/** Sv48, Svpbmt, the command queue; PAS 46. bench/baseline/riscv.c has the same layout. */
const CAPABILITIES = 0x10n | (7n << 9n) | (1n << 15n) | (46n << 32n);
const TABLE_PAGES = 4096;
const BASE = 0x3412;
const DEVICE = 8;
const PSCID = 5;

/** Offsets of registers ("Register layout"). */
const DDTP = 16;
const CQB = 24;
const CQH = 32;
const CQT = 36;
const CQCSR = 72;

/** A device behind Sv48 tables, each page with an entry of its own. */
function iommuWith(iotlbEntries: number): RiscvIommu {
  const memory = GuestMemory.ofBytes(TABLE_PAGES * 4096);
  const allocator = new TablePages(new Uint8Array(memory.regions[0].buffer), 2, TABLE_PAGES);
  const root = allocator.allocate(1);
  const table = new RiscvTable({ mode: 'sv48', memory, root, allocator, svpbmt: true });
  mapPages(table, BASE);
  // One level of base-format contexts in page 1.
  putWords(memory, 4096 + DEVICE * 32, [1n, 0n, BigInt(PSCID) << 12n, (9n << 60n) | BigInt(root)]);
  const iommu = new RiscvIommu({ capabilities: CAPABILITIES, iotlbEntries }, { memory });
  iommu.write(DDTP, 8, (1n << 10n) | 2n);
  return iommu;
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
    for (let i = 0; i < COMMANDS; i++)
      putWords(memory, QUEUE + i * 16, [1n | (1n << 10n) | (BigInt(i & 15) << 12n) | (1n << 32n), BigInt(i * 7) << 10n]);
    this.#iommu.write(CQB, 8, (BigInt(QUEUE / 4096) << 10n) | 10n);
    this.#iommu.write(CQCSR, 4, 1n);
  }

  batch(): number {
    this.#tail = (this.#tail + COMMANDS - 1) % COMMANDS;
    this.#iommu.write(CQT, 4, BigInt(this.#tail));
    return Number(this.#iommu.read(CQH, 4));
  }
}

export const translateHit: Row = {
  name: 'riscv-translate-hit',
  baseline: 'the same lookup in C',
  variants: [
    {
      name: '16K pages',
      goal: 1.9,
      baseline: { program: 'riscv', arguments: ['hit', String(PAGES)] },
      setup: () => new Translations(iommuWith(2 * PAGES), DEVICE, BASE),
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
      setup: () => new Translations(iommuWith(16), DEVICE, BASE),
    },
  ],
};

export const commands: Row = {
  name: 'riscv-commands',
  baseline: 'the same decoding and invalidation in C',
  variants: [{ name: 'IOTINVAL.VMA', goal: 1.7, baseline: { program: 'riscv', arguments: ['commands'] }, setup: () => new Commands() }],
};
