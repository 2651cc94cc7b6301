import { GuestMemory } from '../../src/memory/guest-memory.ts';
import { AmdV1Table } from '../../src/pagetable/amd-v1.ts';
import { AmdIommu } from '../../src/target/amd/index.ts';
import { type Row, variantsBeside, type Work } from '../row.ts';
import { putWords } from '../structures.ts';
import { TablePages } from '../table-pages.ts';
import { mapPages, PAGES, Translations } from '../translations.ts';

/** bench/baseline/amd.c has the same layouts and numbers. */
const TABLE_PAGES = 4096;
const BASE = 0x12;
const DEVICE = 8;
const DOMAIN = 5;
/** Offsets of registers (48882, 3.4). */
const DEVICE_TABLE = 0x00;
const COMMAND_BASE = 0x08;
const CONTROL = 0x18;
const COMMAND_HEAD = 0x2000;
const COMMAND_TAIL = 0x2008;

/** A device behind 4-level host tables, each page with an entry of its own. */
function iommuWith(iotlbEntries: number): AmdIommu {
  const memory = GuestMemory.ofBytes(TABLE_PAGES * 4096);
  const allocator = new TablePages(new Uint8Array(memory.regions[0].buffer), 2, TABLE_PAGES);
  const root = allocator.allocate(1);
  const table = new AmdV1Table(memory, { levels: 4, root, allocator });
  mapPages(table, BASE);
  putWords(memory, 4096 + DEVICE * 32, [(3n << 61n) | (4n << 9n) | (BigInt(root) << 12n) | 3n, BigInt(DOMAIN), 0n, 0n]);
  const iommu = new AmdIommu({ memory, iotlbEntries });
  iommu.write(DEVICE_TABLE, 8, 0x1000n);
  iommu.write(CONTROL, 8, 1n);
  return iommu;
}

const BUFFER = 0x10_0000;
const COMMANDS = 2048;

/** A full buffer of INVALIDATE_IOMMU_PAGES, each of one page of one of 16 domains. */
class Commands implements Work {
  readonly operations = COMMANDS - 1;
  readonly #iommu: AmdIommu;
  #tail = 0;

  constructor() {
    const memory = GuestMemory.ofBytes(BUFFER + COMMANDS * 16);
    this.#iommu = new AmdIommu({ memory });
    for (let i = 0; i < COMMANDS; i++) putWords(memory, BUFFER + i * 16, [(3n << 60n) | (BigInt(i & 15) << 32n), BigInt(i * 7) << 12n]);
    this.#iommu.write(COMMAND_BASE, 8, BigInt(BUFFER) | (11n << 56n));
    this.#iommu.write(CONTROL, 8, 1n | (1n << 12n));
  }

  batch(): number {
    this.#tail = (this.#tail + COMMANDS - 1) % COMMANDS;
    this.#iommu.write(COMMAND_TAIL, 8, BigInt(this.#tail * 16));
    return Number(this.#iommu.read(COMMAND_HEAD, 4));
  }
}

const variant = variantsBeside('amd');

export const translateHit: Row = {
  name: 'amd-translate-hit',
  baseline: 'the same lookup in C',
  variants: [variant('16K pages', null, ['hit', PAGES], () => new Translations(iommuWith(2 * PAGES), DEVICE, BASE))],
};

export const translateMiss: Row = {
  name: 'amd-translate-miss',
  baseline: 'the same lookup, walk of 4 levels and fill in C',
  variants: [variant('16K pages', null, ['miss', PAGES], () => new Translations(iommuWith(16), DEVICE, BASE))],
};

export const commands: Row = {
  name: 'amd-commands',
  baseline: 'the same fetching, checks, decoding and invalidation in C',
  variants: [variant('INVALIDATE_IOMMU_PAGES', null, ['commands'], () => new Commands())],
};
