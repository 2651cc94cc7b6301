import { READ, READ_WRITE } from '../../src/memory/access.ts';
import { GuestMemory } from '../../src/memory/guest-memory.ts';
import { ArmTable } from '../../src/pagetable/arm.ts';
import { Smmuv3 } from '../../src/target/smmuv3/index.ts';
import { NO_PASID } from '../../src/target/target.ts';
import { type Row, variantsBeside, type Work } from '../row.ts';
import { putWords } from '../structures.ts';
import { TablePages } from '../table-pages.ts';
import { FIRST_PAGE, mapPages, PAGES, Translations } from '../translations.ts';

const TABLE_PAGES = 4096;
const BASE = 0x12;
const STREAM = 8;
const ASIDS = 16;
/** Offsets of registers (IHI 0070, 6.2). */
const CR0 = 0x20;
const STRTAB_BASE = 0x80;
const STRTAB_BASE_CFG = 0x88;
const CMDQ_BASE = 0x90;
const CMDQ_PROD = 0x98;
const CMDQ_CONS = 0x9c;
const STREAM_TABLE = 0x1000;
const CONTEXT = 0x2000;

/** A stream behind 4-level tables of stage 1, each page with an entry of its own, and, if `nested`, behind pages of stage 2. */
function smmuWith(iotlbEntries: number, nested: boolean): Smmuv3 {
  const memory = GuestMemory.ofBytes(TABLE_PAGES * 4096);
  const allocator = new TablePages(new Uint8Array(memory.regions[0].buffer), 3, TABLE_PAGES);
  const table = (stage: 1 | 2) => {
    const root = allocator.allocate(1);
    const config = { stage, granuleLg2: 12, inputBits: 48, outputBits: 48, root: BigInt(root) << 12n } as const;
    return { root: BigInt(root) << 12n, table: new ArmTable(memory, { ...config, allocator }) };
  };
  const first = table(1);
  mapPages(first.table, BASE);
  // T0SZ 16, EPD1, V; IPS 48, AA64, R, A. Streams from 16 on have an ASID each.
  const context = (asid: number) => [(BigInt(asid) << 48n) | (0x6205n << 32n) | (1n << 31n) | (1n << 30n) | 16n, first.root];
  putWords(memory, CONTEXT, context(5));
  for (let asid = 0; asid < ASIDS; asid++) {
    putWords(memory, CONTEXT + 64 * (1 + asid), context(asid));
    putWords(memory, STREAM_TABLE + 64 * (ASIDS + asid), [BigInt(CONTEXT + 64 * (1 + asid)) | (5n << 1n) | 1n, 0n]);
  }
  const stage1 = [BigInt(CONTEXT) | (5n << 1n) | 1n, 0n];
  if (nested) {
    const second = table(2);
    // What stage 1 leads to has its own place in stage 2.
    for (let page = 0; page < TABLE_PAGES; page++) second.table.map(page, page, 1, READ_WRITE);
    for (let page = 0; page < PAGES; page++) second.table.map(FIRST_PAGE + page, FIRST_PAGE + page, 1, READ_WRITE);
    // T0SZ 16, SL0 2, PS 48, AA64.
    putWords(memory, STREAM_TABLE + 64 * STREAM, [stage1[0] | (7n << 1n), 0n, (0xd_0090n << 32n) | 3n, second.root]);
  } else putWords(memory, STREAM_TABLE + 64 * STREAM, stage1);
  const smmu = new Smmuv3({ memory, iotlbEntries });
  smmu.write(STRTAB_BASE, 8, BigInt(STREAM_TABLE));
  smmu.write(STRTAB_BASE_CFG, 4, 6n);
  smmu.write(CR0, 4, 1n);
  return smmu;
}

/** Above all tables. */
const QUEUE = 0x80_0000;
const QUEUE_LG2 = 11;

/** A full queue of TLBI_NH_VA, each of one page of one of 16 ASIDs, which have translations in the cache. */
class Commands implements Work {
  readonly operations = 1 << QUEUE_LG2;
  readonly #smmu: Smmuv3;
  #prod = 0;

  constructor() {
    const smmu = smmuWith(65536, false);
    this.#smmu = smmu;
    for (let asid = 0; asid < ASIDS; asid++) smmu.translate(ASIDS + asid, NO_PASID, BASE, 0, READ);
    for (let i = 0; i < this.operations; i++)
      putWords(smmu.memory, QUEUE + i * 16, [0x12n | (BigInt(i % ASIDS) << 48n), (BigInt(i * 7) << 12n) | 1n]);
    smmu.write(CMDQ_BASE, 8, BigInt(QUEUE | QUEUE_LG2));
    smmu.write(CR0, 4, 9n);
  }

  batch(): number {
    // The wrap flag alone turns over: the queue is full.
    this.#prod ^= this.operations;
    this.#smmu.write(CMDQ_PROD, 4, BigInt(this.#prod));
    return Number(this.#smmu.read(CMDQ_CONS, 4));
  }
}

const variant = variantsBeside('smmuv3');

export const translateHit: Row = {
  name: 'smmuv3-translate-hit',
  baseline: 'the same lookup in C',
  variants: [variant('16K pages', 1.9, ['hit'], () => new Translations(smmuWith(2 * PAGES, false), STREAM, BASE))],
};

export const translateMiss: Row = {
  name: 'smmuv3-translate-miss',
  baseline: 'the same lookup, walk of stage 1 and fill in C',
  variants: [variant('16K pages', null, ['miss'], () => new Translations(smmuWith(16, false), STREAM, BASE, 1 << 11))],
};

export const nestedMiss: Row = {
  name: 'smmuv3-nested-miss',
  baseline: 'the same lookup, walk of both stages and fill in C',
  variants: [variant('16K pages', null, ['nested'], () => new Translations(smmuWith(16, true), STREAM, BASE, 1 << 10))],
};

export const commands: Row = {
  name: 'smmuv3-commands',
  baseline: 'the same decoding and invalidation in C',
  variants: [variant('TLBI_NH_VA', 1.7, ['commands'], () => new Commands())],
};
