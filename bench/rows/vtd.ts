import { READ } from '../../src/memory/access.ts';
import { GuestMemory } from '../../src/memory/guest-memory.ts';
import { VtdSecondStageTable } from '../../src/pagetable/vtd-second-stage.ts';
import { NO_PASID } from '../../src/target/target.ts';
import { VtdIommu } from '../../src/target/vtd/index.ts';
import { type Row, variantsBeside, type Work } from '../row.ts';
import { putWords } from '../structures.ts';
import { TablePages } from '../table-pages.ts';
import { mapPages, PAGES, Translations } from '../translations.ts';

/** bench/baseline/vtd.c has the same layouts and numbers. */
const TABLE_PAGES = 4096;
const BASE = 0x12;
const DEVICE = 8;
const DOMAIN = 5;
const OPERATIONS = 1 << 13;
/** Offsets of registers (D51397, 11.4), and bits of GCMD. */
const GCMD = 0x18;
const GSTS = 0x1c;
const RTADDR = 0x20;
const FSTS = 0x34;
const FEDATA = 0x3c;
const IQH = 0x80;
const IQT = 0x88;
const IQA = 0x90;
const IRTA = 0xb8;
const TE = 1n << 31n;
const SRTP = 1n << 30n;
const QIE = 1n << 26n;
const IRE = 1n << 25n;
const SIRTP = 1n << 24n;

/** A device behind a second stage of 4 levels in legacy mode, each page with an entry of its own. */
function translating(iotlbEntries: number): VtdIommu {
  const memory = GuestMemory.ofBytes((TABLE_PAGES + 2) * 4096);
  const allocator = new TablePages(new Uint8Array(memory.regions[0].buffer), 2, TABLE_PAGES);
  const root = allocator.allocate(1);
  const table = new VtdSecondStageTable(memory, { levels: 4, root, allocator });
  mapPages(table, BASE);
  const [roots, contexts] = [TABLE_PAGES * 4096, (TABLE_PAGES + 1) * 4096];
  putWords(memory, roots, [BigInt(contexts) | 1n, 0n]);
  putWords(memory, contexts + DEVICE * 16, [(BigInt(root) << 12n) | 1n, (BigInt(DOMAIN) << 8n) | 2n]);
  const iommu = new VtdIommu({ iotlbEntries }, { memory });
  iommu.write(RTADDR, 8, BigInt(roots));
  iommu.write(GCMD, 4, SRTP);
  iommu.write(GCMD, 4, TE);
  return iommu;
}

const QUEUE = 0x10_0000;
const COMMANDS = 2048;

/** A full queue of page-selective invalidations of 16 domains: of the IOTLB, or of the PASID-based IOTLB in descriptors of 256 bits. */
class Commands implements Work {
  readonly operations = COMMANDS - 1;
  readonly #iommu: VtdIommu;
  readonly #bytes: number;
  #tail = 0;

  constructor(wide: boolean) {
    this.#bytes = wide ? 32 : 16;
    const memory = GuestMemory.ofBytes(QUEUE + COMMANDS * this.#bytes);
    this.#iommu = new VtdIommu({ scalableMode: wide }, { memory });
    const iommu = this.#iommu;
    // One translation, so that a page size is known: where pass-through is answered nothing is cached.
    cacheOne(iommu, memory, wide);
    const type = wide ? 6n | (3n << 4n) | (9n << 32n) : 2n | (3n << 4n);
    for (let i = 0; i < COMMANDS; i++)
      putWords(memory, QUEUE + i * this.#bytes, [type | (BigInt(i & 15) << 16n), BigInt(i * 7) << 12n, ...(wide ? [0n, 0n] : [])]);
    iommu.write(IQA, 8, BigInt(QUEUE) | (wide ? (1n << 11n) | 4n : 3n));
    iommu.write(GCMD, 4, QIE | TE);
  }

  batch(): number {
    this.#tail = (this.#tail + (COMMANDS - 1) * this.#bytes) % (COMMANDS * this.#bytes);
    this.#iommu.write(IQT, 8, BigInt(this.#tail));
    return Number(this.#iommu.read(IQH, 4));
  }
}

/** Translates address 0 through tables of pages 1 to 6, in scalable mode by RID_PASID 0. */
function cacheOne(iommu: VtdIommu, memory: GuestMemory, scalable: boolean): void {
  const page = (number: number) => number * 4096;
  for (let level = 3; level < 6; level++) putWords(memory, page(level), [BigInt(page(level + 1)) | 3n]);
  putWords(memory, page(6), [3n]);
  putWords(memory, page(1), [BigInt(page(2)) | 1n]);
  if (scalable) {
    putWords(memory, page(2), [BigInt(page(7)) | 1n, 0n, 0n, 0n]);
    putWords(memory, page(7), [BigInt(page(8)) | 1n]);
    putWords(memory, page(8), [(2n << 6n) | (2n << 2n) | 1n | BigInt(page(3)), BigInt(DOMAIN)]);
  } else putWords(memory, page(2), [BigInt(page(3)) | 1n, (BigInt(DOMAIN) << 8n) | 2n]);
  iommu.write(RTADDR, 8, BigInt(page(1)) | (scalable ? 1n << 10n : 0n));
  iommu.write(GCMD, 4, SRTP);
  iommu.write(GCMD, 4, TE);
  const lg2 = iommu.translate(0, NO_PASID, 0, 0, READ);
  if (lg2 !== 12) throw new Error(`VT-d bench: the translation answered ${lg2}`);
}

const INTERRUPT_TABLE = 0x2000;
const INTERRUPTS = 256;

/** MSIs of one device, each with an entry of its own. */
class Interrupts implements Work {
  readonly operations = OPERATIONS;
  readonly #iommu: VtdIommu;

  constructor() {
    const memory = GuestMemory.ofBytes(INTERRUPT_TABLE + INTERRUPTS * 16);
    for (let i = 0; i < INTERRUPTS; i++) {
      const low = 1n | (BigInt(i & 255) << 16n) | (BigInt((i * 5) & 255) << 40n);
      putWords(memory, INTERRUPT_TABLE + i * 16, [low, (1n << 18n) | BigInt(DEVICE)]);
    }
    this.#iommu = new VtdIommu({ extendedInterruptMode: false }, { memory });
    this.#iommu.write(IRTA, 8, BigInt(INTERRUPT_TABLE) | 7n);
    this.#iommu.write(GCMD, 4, SIRTP);
    this.#iommu.write(GCMD, 4, IRE);
  }

  batch(): number {
    const iommu = this.#iommu;
    const { interrupt } = iommu;
    let sum = 0;
    for (let i = 0; i < OPERATIONS; i++) {
      const index = (i * 37) % INTERRUPTS;
      const result = iommu.remap(DEVICE, 0xfee0_0010 | (1 << 3) | ((index & 0xf0) << 5), index & 15);
      sum = (sum + result + interrupt.vector + interrupt.destination) | 0;
    }
    return sum;
  }
}

/** What a driver writes and reads most, each register with its own effect: 3 writes and 5 reads at a time. */
class RegisterAccesses implements Work {
  readonly operations = OPERATIONS;
  readonly #iommu = new VtdIommu({}, { memory: GuestMemory.ofBytes(4096) });

  batch(): number {
    const iommu = this.#iommu;
    let sum = 0;
    for (let i = 0; i < OPERATIONS / 8; i++) {
      iommu.write(IQT, 8, BigInt((i & 1023) << 4));
      sum += Number(iommu.read(IQH, 8)) + Number(iommu.read(FSTS, 4)) + Number(iommu.read(GSTS, 4));
      iommu.write(FSTS, 4, 0x71n);
      sum += Number(iommu.read(IQT, 8));
      iommu.write(FEDATA, 4, BigInt(i & 255));
      sum += Number(iommu.read(FEDATA, 4));
    }
    return sum | 0;
  }
}

const variant = variantsBeside('vtd');

export const translateHit: Row = {
  name: 'vtd-translate-hit',
  baseline: 'the same lookup in C',
  variants: [variant('16K pages', 1.9, ['hit', PAGES], () => new Translations(translating(2 * PAGES), DEVICE, BASE))],
};

export const translateMiss: Row = {
  name: 'vtd-translate-miss',
  baseline: 'the same lookup, walk of 4 levels and fill in C',
  variants: [variant('16K pages', null, ['miss', PAGES], () => new Translations(translating(16), DEVICE, BASE))],
};

export const commands: Row = {
  name: 'vtd-commands',
  baseline: 'the same fetching, checks, decoding and invalidation in C',
  variants: [
    variant('IOTLB, pages', 1.5, ['commands', 16], () => new Commands(false)),
    variant('PASID-based IOTLB, pages', 1.5, ['commands', 32], () => new Commands(true)),
  ],
};

export const interruptRemap: Row = {
  name: 'vtd-interrupt-remap',
  baseline: 'the same checks of request and entry in C',
  variants: [variant('MSI', null, ['remap'], () => new Interrupts())],
};

export const register: Row = {
  name: 'vtd-register',
  baseline: 'the same effects in C',
  variants: [variant('3 writes, 5 reads', null, ['register'], () => new RegisterAccesses())],
};
