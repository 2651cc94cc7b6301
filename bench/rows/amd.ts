import { READ, READ_WRITE } from '../../src/memory/access.ts';
import { hiOf, loOf } from '../../src/memory/address.ts';
import { GuestMemory } from '../../src/memory/guest-memory.ts';
import { AmdV1Table } from '../../src/pagetable/amd-v1.ts';
import { AmdIommu } from '../../src/target/amd/index.ts';
import { NO_PASID } from '../../src/target/target.ts';
import { Random } from '../random.ts';
import type { Row, Work } from '../row.ts';
import { TablePages } from '../table-pages.ts';

const TABLE_PAGES = 4096;
const FIRST_PAGE = 0x20_0000;
const BASE = 0x12;
const DEVICE = 8;
const DOMAIN = 5;
const PAGES = 1 << 14;
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
  for (let page = 0; page < PAGES; page++) table.map(BASE * 2 ** 20 + page, FIRST_PAGE + (page ^ 0x155), 1, READ_WRITE);
  const words = [(3n << 61n) | (4n << 9n) | (BigInt(root) << 12n) | 3n, BigInt(DOMAIN), 0n, 0n];
  for (const [i, word] of words.entries()) memory.store64(0, 4096 + DEVICE * 32 + i * 8, hiOf(word), loOf(word));
  const iommu = new AmdIommu({ memory, iotlbEntries });
  iommu.write(DEVICE_TABLE, 8, 0x1000n);
  iommu.write(CONTROL, 8, 1n);
  return iommu;
}

class Translations implements Work {
  readonly operations = 1 << 13;
  readonly #iommu: AmdIommu;
  readonly #order: Int32Array;
  #at = 0;

  constructor(iommu: AmdIommu) {
    const random = new Random();
    this.#iommu = iommu;
    this.#order = Int32Array.from({ length: PAGES }, () => random.next() & (PAGES - 1));
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
    for (let i = 0; i < COMMANDS; i++) {
      const low = (3n << 60n) | (BigInt(i & 15) << 32n);
      const high = BigInt(i * 7) << 12n;
      memory.store64(0, BUFFER + i * 16, hiOf(low), loOf(low));
      memory.store64(0, BUFFER + i * 16 + 8, hiOf(high), loOf(high));
    }
    this.#iommu.write(COMMAND_BASE, 8, BigInt(BUFFER) | (11n << 56n));
    this.#iommu.write(CONTROL, 8, 1n | (1n << 12n));
  }

  batch(): number {
    this.#tail = (this.#tail + COMMANDS - 1) % COMMANDS;
    this.#iommu.write(COMMAND_TAIL, 8, BigInt(this.#tail * 16));
    return Number(this.#iommu.read(COMMAND_HEAD, 4));
  }
}

function row(name: string, variant: string, setup: () => Work): Row {
  return { name, baseline: null, variants: [{ name: variant, goal: null, baseline: null, setup }] };
}

export const translateHit = row('amd-translate-hit', '16K pages', () => new Translations(iommuWith(2 * PAGES)));
export const translateMiss = row('amd-translate-miss', '16K pages', () => new Translations(iommuWith(16)));
export const commands = row('amd-commands', 'INVALIDATE_IOMMU_PAGES', () => new Commands());
