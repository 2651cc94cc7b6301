import { hiOf, loOf } from '../../src/memory/address.ts';
import { GuestMemory } from '../../src/memory/guest-memory.ts';
import { GeneralRegisters, MPCIFC, ZpciIommu } from '../../src/target/zpci/index.ts';
import { type Row, variantsBeside, type Work } from '../row.ts';
import { outputOf, PAGES, Translations } from '../translations.ts';

/** bench/baseline/zpci.c has the same layouts and numbers. */
const BASE = 1;
const REGION = 0x4000;
const SEGMENT = 0x8000;
const PAGE_TABLES = 0x1_0000;
const RAM_BYTES = 0x10_0000;
const FIB = 0x1000;
const HANDLE = 0x8002_0000n;

/** A function behind region third tables, 64 MiB from 4 GiB on. */
class Guest {
  readonly iommu: ZpciIommu;
  readonly registers = new GeneralRegisters();

  constructor(iotlbEntries: number) {
    const memory = GuestMemory.ofBytes(RAM_BYTES);
    const store = (at: number, value: bigint) => memory.store64BE(0, at, hiOf(value), loOf(value));
    store(REGION + 16, BigInt(SEGMENT) | 7n);
    for (let i = 0; i < PAGES / 256; i++) store(SEGMENT + 8 * i, BigInt(PAGE_TABLES + 2048 * i));
    for (let page = 0; page < PAGES; page++) store(PAGE_TABLES + 8 * page, BigInt(outputOf(page)) << 12n);
    this.iommu = new ZpciIommu({ memory, functions: [{ fid: 1 }], iotlbEntries });
    const block = new Uint8Array(64);
    block.set([0, 32, 0, 5], 0);
    block.set([0, 2, 0, 0, 0, 0, 0, 1], 16);
    block.set([0, 32], 32);
    this.iommu.clp(block);
    store(FIB + 0x10, 0x1_0000_0000n);
    store(FIB + 0x18, 0x1_03ff_ffffn);
    store(FIB + 0x20, BigInt(REGION) | 0x804n);
    this.registers.u64[1] = (HANDLE << 32n) | BigInt(MPCIFC.registerTranslation);
    if (this.iommu.mpcifc(this.registers, 1, BigInt(FIB)) !== 0) throw new Error('the function was not registered');
  }
}

/** RPCIT of one page after the other. */
class Refreshes implements Work {
  readonly operations = 1 << 11;
  readonly #guest = new Guest(1 << 15);

  batch(): number {
    const { iommu, registers } = this.#guest;
    const { u64 } = registers;
    let sum = 0;
    for (let i = 0; i < this.operations; i++) {
      u64[1] = HANDLE << 32n;
      u64[2] = BigInt(0x1_0000_0000 + i * 4096);
      u64[3] = 4096n;
      sum = (sum + iommu.rpcit(registers, 1, 2) + 1) | 0;
    }
    return sum;
  }
}

const variant = variantsBeside('zpci');

export const translateHit: Row = {
  name: 'zpci-translate-hit',
  baseline: 'the same lookup in C',
  variants: [variant('16K pages', null, ['hit', PAGES], () => new Translations(new Guest(2 * PAGES).iommu, 1, BASE))],
};

export const translateMiss: Row = {
  name: 'zpci-translate-miss',
  baseline: 'the same lookup, walk of 3 levels and fill in C',
  variants: [variant('16K pages', null, ['miss', PAGES], () => new Translations(new Guest(16).iommu, 1, BASE))],
};

export const refresh: Row = {
  name: 'zpci-rpcit',
  baseline: 'the same checks, look for malformed entries and invalidation in C',
  variants: [variant('one page', null, ['rpcit'], () => new Refreshes())],
};
