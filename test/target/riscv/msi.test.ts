import { describe, expect, test } from 'vitest';
import { READ, WRITE } from '../../../src/memory/access.ts';
import { hiOf, joinHiLo, loOf } from '../../../src/memory/address.ts';
import type { RiscvTable } from '../../../src/pagetable/riscv.ts';
import { targetFault } from '../../../src/target/fault-codes.ts';
import { Cause, INTERRUPT_IN_MEMORY } from '../../../src/target/riscv/index.ts';
import { NO_PASID } from '../../../src/target/target.ts';
import { fence, Guest, invalDdt } from './guest.ts';

const DEVICE = 8;
/** Virtual interrupt files at 0x28000000 + 0x1000 * n, n below 4 ("MSI address mask and pattern"). */
const FILES = 0x2_8000;
const MSI_TABLE = 6;
const MRIF = 0x7200;
const NOTICE_PAGE = 7;
const NOTICE = 0x123;

/** A device with a second stage, a flat MSI page table, and stores to devices noted. */
function setUp(stores: [bigint, number][] = []) {
  const guest = new Guest({}, 1024, { storeDevice: (address, value) => stores.push([address, value]) > 0 });
  guest.iommu.addEndpoint(DEVICE);
  guest.start();
  const { table, root } = guest.table('sv39', true);
  table.map(FILES - 2, 0x40, 8, READ | WRITE);
  guest.setContext(DEVICE, { second: { mode: 8, root, gscid: 1 } });
  const dc = 4096 + DEVICE * 64;
  guest.memory.store64(0, dc + 32, 1 << 28, MSI_TABLE);
  guest.memory.store64(0, dc + 40, 0, 3);
  guest.memory.store64(0, dc + 48, 0, FILES);
  guest.command(invalDdt(DEVICE), fence());
  /** Entry n: its two doublewords. */
  const entry = (n: number, low: bigint, high: bigint) => {
    guest.memory.store64(0, MSI_TABLE * 4096 + n * 16, hiOf(low), loOf(low));
    guest.memory.store64(0, MSI_TABLE * 4096 + n * 16 + 8, hiOf(high), loOf(high));
  };
  // 0: basic, to a page of the machine's IMSIC. 1: MRIF. 2: not valid. 3: M 2 is reserved.
  entry(0, (0x1_2345n << 10n) | 7n, 0n);
  entry(1, (BigInt(MRIF >> 9) << 7n) | 3n, (BigInt(NOTICE_PAGE) << 10n) | BigInt(NOTICE));
  entry(3, 5n, 0n);
  const doubleword = (address: number) => {
    guest.memory.load64(0, address);
    return joinHiLo(guest.memory.word[1], guest.memory.word[0]);
  };
  return { guest, doubleword, stores };
}

describe('"Process to translate addresses of MSIs"', () => {
  test('basic translate mode; neighbours of the files go through the second stage', () => {
    const { iommu } = setUp().guest;
    expect(iommu.translate(DEVICE, NO_PASID, 0, FILES * 4096 + 4, WRITE)).toBe(12);
    expect(joinHiLo(iommu.translated[1], iommu.translated[0])).toBe(0x1234_5004n);
    for (const [page, to] of [
      [FILES - 1, 0x41],
      [FILES + 4, 0x46],
    ]) {
      expect(iommu.translate(DEVICE, NO_PASID, 0, page * 4096, WRITE)).toBe(12);
      expect(joinHiLo(iommu.translated[1], iommu.translated[0])).toBe(BigInt(to) << 12n);
    }
  });

  test('entries that are not valid or misconfigured; fetches', () => {
    const { guest } = setUp();
    const { iommu } = guest;
    expect(iommu.translate(DEVICE, NO_PASID, 0, (FILES + 2) * 4096, WRITE)).toBe(targetFault('riscv', Cause.msiNotValid));
    expect(iommu.translate(DEVICE, NO_PASID, 0, (FILES + 3) * 4096, WRITE)).toBe(targetFault('riscv', Cause.msiMisconfigured));
    expect(iommu.translate(DEVICE, NO_PASID, 0, FILES * 4096, 4)).toBe(targetFault('riscv', Cause.instructionAccessFault));
    expect(guest.takeFaults().map(([low, , iotval]) => [low & 0xfffn, iotval])).toEqual([
      [262n, BigInt((FILES + 2) * 4096)],
      [263n, BigInt((FILES + 3) * 4096)],
      [1n, BigInt(FILES * 4096)],
    ]);
  });

  test('the address space leaves the files out', () => {
    const runs: number[][] = [];
    setUp()
      .guest.iommu.spaceOf(DEVICE)!
      .enumerate(0, 0xfffff, (...run) => runs.push(run) > 0);
    expect(runs).toEqual([
      [FILES - 2, 0x40, 2, READ | WRITE],
      [FILES + 4, 0x46, 2, READ | WRITE],
    ]);
  });

  /** What DEVICE reaches with a second stage of its own, and files elsewhere: `mask` and `pattern` are page numbers. */
  function withFiles(mask: number, pattern: number, fill: (table: RiscvTable) => void) {
    const { guest } = setUp();
    const { table, root } = guest.table('sv39', true);
    fill(table);
    guest.setContext(DEVICE, { second: { mode: 8, root, gscid: 1 } });
    const dc = 4096 + DEVICE * 64;
    guest.memory.store64(0, dc + 32, 1 << 28, MSI_TABLE);
    guest.memory.store64(0, dc + 40, 0, mask);
    guest.memory.store64(0, dc + 48, 0, pattern);
    guest.command(invalDdt(DEVICE), fence());
    return guest.iommu.spaceOf(DEVICE)!;
  }

  test('only files that are stepped over are counted: 20,000 runs beside them are all there', () => {
    const space = withFiles(3, FILES, (table) => {
      for (let page = 0; page < 20_000; page++) table.map(page, 0x10_0000 + 2 * page, 1, READ | WRITE);
    });
    let runs = 0;
    expect(space.enumerate(0, 0xfffff, () => ++runs > 0)).toBe(0x10_0000);
    expect(runs).toBe(20_000);
  });

  test('more than 2^14 files: the answer is the page reached, and the next call goes on there', () => {
    // Every odd page below 2^16 is a file.
    const space = withFiles(0xfffe, 1, (table) => table.map(0, 0x40_0000, 0x1_0000, READ | WRITE));
    const pages: number[] = [];
    const visit = (iova: number, _: number, count: number) => pages.push(iova, count) > 0;
    const reached = space.enumerate(0, 0xffff, visit);
    expect(reached).toBe(2 ** 15 + 1);
    expect(space.enumerate(reached, 0xffff, visit)).toBe(0x1_0000);
    expect(pages).toEqual(Array.from({ length: 2 ** 15 }, (_, i) => [2 * i, 1]).flat());
  });

  test('a visitor that ends it between two files is answered the page after its run', () => {
    const space = withFiles(0xfff0, 8, (table) => table.map(0, 0x40_0000, 0x1_0000, READ | WRITE));
    expect(space.enumerate(0, 0xffff, (iova) => iova !== 9)).toBe(0x18);
  });
});

describe('AIA, "Memory-resident interrupt files"', () => {
  const file = BigInt((FILES + 1) * 4096);

  test('a write sets the pending bit; enabled, it sends the notice MSI', () => {
    const { guest, doubleword, stores } = setUp();
    const { iommu, memory } = guest;
    expect(iommu.translate(DEVICE, NO_PASID, 0, Number(file), WRITE)).toBe(INTERRUPT_IN_MEMORY);
    expect(iommu.storeInterrupt(DEVICE, NO_PASID, file, 70)).toBe(0);
    expect(doubleword(MRIF + 16)).toBe(1n << 6n);
    expect(doubleword(NOTICE_PAGE * 4096)).toBe(0n);
    // Identity 100: pending bit 36 of the second pair, enabled. seteipnum_be.
    memory.store64(0, MRIF + 24, 1 << 4, 0);
    expect(iommu.storeInterrupt(DEVICE, NO_PASID, file + 4n, 0x6400_0000)).toBe(0);
    expect(doubleword(MRIF + 16)).toBe((1n << 36n) | (1n << 6n));
    expect(doubleword(NOTICE_PAGE * 4096)).toBe(BigInt(NOTICE));
    expect(stores).toEqual([]);
  });

  test.each([
    ['identity 0', 0n, 0],
    ['identity 2048', 0n, 2048],
    ['another register', 8n, 5],
  ])('%s is ignored', (_, offset, value) => {
    const { guest, doubleword } = setUp();
    expect(guest.iommu.storeInterrupt(DEVICE, NO_PASID, file + offset, value)).toBe(0);
    // The file, and what lies behind it.
    for (let at = MRIF; at < MRIF + 528; at += 8) expect(doubleword(at)).toBe(0n);
  });

  test('a file that is no memory: cause 264', () => {
    const { guest } = setUp();
    const low = (0x7ff_ffffn << 7n) | 3n;
    guest.memory.store64(0, MSI_TABLE * 4096 + 16, hiOf(low), loOf(low));
    expect(guest.iommu.storeInterrupt(DEVICE, NO_PASID, file, 5)).toBe(targetFault('riscv', Cause.mrifAccessFault));
    expect(guest.takeFaults().map(([word]) => word & 0xfffn)).toEqual([264n]);
  });

  test('an entry that is basic by the time of the write: a fault, and nothing is stored', () => {
    const { guest, doubleword, stores } = setUp();
    const { iommu, memory } = guest;
    expect(iommu.translate(DEVICE, NO_PASID, 0, Number(file), WRITE)).toBe(INTERRUPT_IN_MEMORY);
    memory.store64(0, MSI_TABLE * 4096 + 16, 0, (0x20 << 10) | 7);
    memory.store64(0, MSI_TABLE * 4096 + 24, 0, 0);
    expect(iommu.storeInterrupt(DEVICE, NO_PASID, file, 70)).toBe(targetFault('riscv', Cause.msiMisconfigured));
    expect(guest.takeFaults().map(([low, , iotval]) => [low & 0xfffn, iotval])).toEqual([[263n, file]]);
    expect([doubleword(MRIF + 16), doubleword(0x20 * 4096), stores]).toEqual([0n, 0n, []]);
    // An address of the second stage's is as little a file in memory.
    expect(iommu.storeInterrupt(DEVICE, NO_PASID, BigInt((FILES - 1) * 4096), 70)).toBe(targetFault('riscv', Cause.msiMisconfigured));
  });
});
