import { READ } from '../../src/memory/access.ts';
import { GuestMemory } from '../../src/memory/guest-memory.ts';
import { RiscvTable } from '../../src/pagetable/riscv.ts';
import { RiscvIommu } from '../../src/target/riscv/index.ts';
import { NO_PASID } from '../../src/target/target.ts';
import { type Row, variantsBeside, type Work } from '../row.ts';
import { putWords } from '../structures.ts';
import { TablePages } from '../table-pages.ts';
import { mapPages, PAGES, Translations } from '../translations.ts';

/** Sv48, Svpbmt, the command queue; PAS 46. bench/baseline/riscv.c has the same layout. */
const CAPABILITIES = 0x10n | (7n << 9n) | (1n << 15n) | (46n << 32n);
const TABLE_PAGES = 4096;
const BASE = 0x3412;
const DEVICE = 8;
const PSCID = 5;
const PROCESSES = 16;

/** Offsets of registers ("Register layout"). */
const DDTP = 16;
const CQB = 24;
const CQH = 32;
const CQT = 36;
const CQCSR = 72;

/** A device behind Sv48 tables, each page with an entry of its own; the PROCESSES devices after it have the same tables, and PSCIDs from 0 on. */
function iommuWith(iotlbEntries: number, memory = GuestMemory.ofBytes(TABLE_PAGES * 4096)): RiscvIommu {
  const allocator = new TablePages(new Uint8Array(memory.regions[0].buffer), 2, TABLE_PAGES);
  const root = allocator.allocate(1);
  const table = new RiscvTable({ mode: 'sv48', memory, root, allocator, svpbmt: true });
  mapPages(table, BASE);
  // One level of base-format contexts in page 1.
  const put = (device: number, pscid: number) =>
    putWords(memory, 4096 + device * 32, [1n, 0n, BigInt(pscid) << 12n, (9n << 60n) | BigInt(root)]);
  put(DEVICE, PSCID);
  for (let process = 0; process < PROCESSES; process++) put(DEVICE + 1 + process, process);
  const iommu = new RiscvIommu({ capabilities: CAPABILITIES, iotlbEntries }, { memory });
  iommu.write(DDTP, 8, (1n << 10n) | 2n);
  return iommu;
}

/** Above all tables. */
const QUEUE = TABLE_PAGES * 4096;
const COMMANDS = 2048;
/** Page that a command selects. */
const pageOf = (i: number) => i * 7;

/** A full queue of IOTINVAL.VMA, each of one page of one of 16 processes. */
class Commands implements Work {
  readonly operations = COMMANDS - 1;
  readonly #iommu: RiscvIommu;
  readonly #cached: boolean;
  #tail = 0;

  /** `cached`: what each command selects is in the cache when it comes; otherwise the cache is empty. */
  constructor(cached: boolean) {
    this.#cached = cached;
    const memory = GuestMemory.ofBytes(QUEUE + COMMANDS * 16);
    this.#iommu = iommuWith(65536, memory);
    for (let i = 0; i < COMMANDS; i++) {
      const page = BigInt(BASE * 2 ** 20 + pageOf(i));
      putWords(memory, QUEUE + i * 16, [1n | (1n << 10n) | (BigInt(i % PROCESSES) << 12n) | (1n << 32n), page << 10n]);
    }
    this.#iommu.write(CQB, 8, (BigInt(QUEUE / 4096) << 10n) | 10n);
    this.#iommu.write(CQCSR, 4, 1n);
  }

  before(): void {
    if (!this.#cached) return;
    for (let i = 0; i < COMMANDS; i++) {
      const lg2 = this.#iommu.translate(DEVICE + 1 + (i % PROCESSES), NO_PASID, BASE, pageOf(i) << 12, READ);
      if (lg2 !== 12) throw new Error(`RISC-V bench: the translation answered ${lg2}`);
    }
  }

  batch(): number {
    this.#tail = (this.#tail + COMMANDS - 1) % COMMANDS;
    this.#iommu.write(CQT, 4, BigInt(this.#tail));
    return Number(this.#iommu.read(CQH, 4));
  }
}

const variant = variantsBeside('riscv');

export const translateHit: Row = {
  name: 'riscv-translate-hit',
  baseline: 'the same lookup in C',
  variants: [variant('16K pages', 2, ['hit', PAGES], () => new Translations(iommuWith(2 * PAGES), DEVICE, BASE))],
};

export const translateMiss: Row = {
  name: 'riscv-translate-miss',
  baseline: 'the same lookup, Sv48 walk and fill in C',
  variants: [variant('16K pages', 4, ['miss', PAGES], () => new Translations(iommuWith(16), DEVICE, BASE))],
};

export const commands: Row = {
  name: 'riscv-commands',
  baseline: 'the same decoding and invalidation in C',
  variants: [
    variant('IOTINVAL.VMA, empty', 3, ['commands', 0], () => new Commands(false)),
    variant('IOTINVAL.VMA, cached', 3, ['commands', 1], () => new Commands(true)),
  ],
};
