import { describe, expect, test } from 'vitest';
import { READ, READ_WRITE, WRITE } from '../../../src/memory/access.ts';
import { GuestMemory } from '../../../src/memory/guest-memory.ts';
import { targetFault } from '../../../src/target/fault-codes.ts';
import { FAULT_BLOCKED, FAULT_ENDPOINT, GeneralRegisters, PEC } from '../../../src/target/zpci/index.ts';
import { runsOf } from '../hardware.ts';
import { type Designation, FIRST, FRAME, Guest, GuestTables, handleOf, INVALID, PAGES, PROTECTED, RAM_PAGES } from './guest.ts';

const TABLES = 0x10000n;
const PAGE = FIRST + 5;
const IOVA = BigInt(PAGE) << 12n;

function registered(designation: Designation = 'regionThird', flags = 0n, memory?: GuestMemory): { guest: Guest; tables: GuestTables } {
  const guest = new Guest({}, memory);
  const tables = new GuestTables(guest.memory, TABLES, designation);
  tables.map(PAGE, 0x80, 4);
  guest.start();
  expect(guest.register(1, tables.iota | flags)[0]).toBe(0);
  return { guest, tables };
}

describe('zPCI translation', () => {
  test.each<[Designation, number]>([
    ['segment', 1],
    ['regionThird', 2],
    ['regionSecond', 3],
    ['regionFirst', 4],
  ])('%s tables; protection at every level; a registration takes what the table holds then', (designation, top) => {
    const { guest, tables } = registered(designation);
    expect(guest.access(1, IOVA | 0x10n, READ_WRITE)).toBe(0x80010n);
    expect(runsOf(guest.iommu.spaceOf(1)!)).toEqual([{ iova: PAGE, gpa: 0x80, pages: 4, permission: READ_WRITE }]);
    for (let level = 1; level <= top; level++) {
      const at = tables.entry(level, level === 1 ? PAGE >> 8 : 0);
      const entry = guest.load(at);
      tables.set(at, entry | PROTECTED);
      guest.refresh(1, FIRST, PAGES);
      expect(guest.access(1, IOVA, READ)).toBe(0x80000n);
      expect(runsOf(guest.iommu.spaceOf(1)!)[0].permission).toBe(READ);
      expect(guest.access(1, IOVA, WRITE)).toBe(BigInt(targetFault('zpci', PEC.protection)));
      expect(guest.modify(1, 7)).toEqual([0, 0]);
      tables.set(at, entry);
      guest.refresh(1, FIRST, PAGES);
    }
    expect(guest.access(1, IOVA, WRITE)).toBe(0x80000n);
  });

  test('a protected page, and a protected anchor', () => {
    const { guest, tables } = registered();
    tables.map(PAGE, 0x80, 1, PROTECTED);
    guest.refresh(1, PAGE, 1);
    expect(guest.access(1, IOVA, READ)).toBe(0x80000n);
    expect(guest.access(1, IOVA, WRITE)).toBe(BigInt(targetFault('zpci', PEC.protection)));
    const { guest: other } = registered('regionThird', PROTECTED);
    expect(other.access(1, IOVA, READ)).toBe(0x80000n);
    expect(other.access(1, IOVA, WRITE)).toBe(BigInt(targetFault('zpci', PEC.protection)));
  });

  test('frames of 1 MiB, and of 2 GiB in region third tables; an answer holds no further than PAL', () => {
    const { guest, tables } = registered();
    tables.frame(PAGE, 3);
    guest.refresh(1, FIRST, 256);
    expect(guest.iommu.translate(1, -1, 0, Number(IOVA), READ)).toBe(20);
    expect(guest.access(1, IOVA | 0x123n, READ)).toBe(0x305123n);
    expect(guest.register(1, tables.iota, 6, FIRST + 9)).toEqual([0, 0]);
    expect(guest.iommu.translate(1, -1, 0, Number(IOVA), READ)).toBe(12);
    // The entry says type region third, bits 3:2 = 01.
    tables.set(tables.entry(2, 0), FRAME | 4n);
    guest.refresh(1, FIRST, 10);
    expect(guest.access(1, IOVA | 0x123n, READ)).toBe(IOVA | 0x123n);
  });

  test.each<[string, number, (tables: GuestTables) => void]>([
    ['an invalid page', PEC.protection, (tables) => tables.unmap(PAGE, 1)],
    ['an invalid segment', PEC.protection, (tables) => tables.set(tables.entry(1, 1), INVALID)],
    ['a page entry of zeros', PEC.tableEntry, (tables) => tables.set(tables.pageEntry(PAGE), 0n)],
    ['a segment entry of zeros', PEC.tableEntry, (tables) => tables.set(tables.entry(1, 1), 0n)],
    ['a page table outside memory', PEC.tableEntry, (tables) => tables.set(tables.entry(1, 1), 0x40000000n)],
    ['a region table of three quarters', PEC.tableLength, (tables) => tables.set(tables.entry(2, 0), 0x10006n)],
    ['a region table with an offset', PEC.tableLength, (tables) => tables.set(tables.entry(2, 0), 0x10047n)],
    ['a region entry of the wrong type', PEC.tableType, (tables) => tables.set(tables.entry(2, 0), 0x1000bn)],
    ['a segment entry of the wrong type', PEC.tableType, (tables) => tables.set(tables.entry(1, 1), 0x20804n)],
  ])('%s: its error event, and the error state', (_, code, spoil) => {
    const { guest, tables } = registered();
    spoil(tables);
    expect(guest.access(1, IOVA | 8n, READ)).toBe(BigInt(targetFault('zpci', code)));
    expect(guest.events).toEqual([{ code, handle: handleOf(1), fid: 1, address: IOVA | 8n }]);
    expect(guest.iommu.spaceOf(1)).toBeNull();
    expect(guest.access(1, IOVA + 0x1000n, READ)).toBe(BigInt(FAULT_BLOCKED));
    expect(guest.events).toHaveLength(1);
    // RPCIT says the same of what is malformed.
    expect(guest.modify(1, 7)).toEqual([0, 0]);
    const refreshed = guest.refresh(1, PAGE, 1);
    if (code === PEC.protection) expect(refreshed).toEqual([0, 0]);
    else expect([refreshed, guest.events[1]]).toEqual([[1, 8], { code, handle: handleOf(1), fid: 1, address: IOVA }]);
  });

  test('what was translated before is blocked in the error state', () => {
    const { guest } = registered();
    const page = guest.access(1, IOVA, READ);
    const hits = guest.iommu.iotlbHits;
    expect(guest.access(1, IOVA, READ)).toBe(page);
    expect(guest.iommu.iotlbHits).toBe(hits + 1);
    guest.access(1, BigInt(FIRST - 1) << 12n, READ);
    expect(guest.access(1, IOVA, READ)).toBe(BigInt(FAULT_BLOCKED));
    // It ends without a refresh.
    expect(guest.modify(1, 7)).toEqual([0, 0]);
    expect(guest.access(1, IOVA, READ)).toBe(page);
    expect(page).toBeGreaterThan(0n);
  });

  test('outside PBA to PAL; a function without registration; another function; a PASID', () => {
    const { guest } = registered();
    expect(guest.access(1, BigInt(FIRST - 1) << 12n, READ)).toBe(BigInt(targetFault('zpci', PEC.range)));
    expect(guest.modify(1, 7)).toEqual([0, 0]);
    expect(guest.access(1, BigInt(FIRST + PAGES) << 12n, READ)).toBe(BigInt(targetFault('zpci', PEC.range)));
    expect(guest.access(2, IOVA, READ)).toBe(BigInt(FAULT_BLOCKED));
    expect(guest.access(3, IOVA, READ)).toBe(BigInt(FAULT_ENDPOINT));
    expect(guest.iommu.translate(1, 5, 0, Number(IOVA), READ)).toBe(FAULT_ENDPOINT);
    expect(guest.iommu.spaceOf(1, 5)).toBeNull();
  });

  test('segment tables reach 2 GiB, whatever PAL says', () => {
    const { guest } = registered('segment');
    guest.register(1, TABLES | 0x800n, 6, 2 ** 20);
    expect(guest.access(1, 0x8000_0000n, READ)).toBe(BigInt(targetFault('zpci', PEC.range)));
  });

  test('relaxed translation: RAM from the start of the aperture on', () => {
    const guest = new Guest({ relaxedTranslation: true });
    guest.start();
    expect(guest.register(1, 0n)).toEqual([0, 0]);
    expect(guest.access(1, IOVA, WRITE)).toBe(0x5000n);
    expect(runsOf(guest.iommu.spaceOf(1)!)).toEqual([{ iova: FIRST, gpa: 0, pages: PAGES, permission: READ_WRITE }]);
    expect(new Guest().register(1, 0n)[0]).not.toBe(0);
  });

  test('a refresh of what is not refreshed leaves cached translations', () => {
    const { guest, tables } = registered('regionFirst');
    guest.access(1, IOVA, READ);
    tables.map(PAGE, 0x90, 1);
    guest.refresh(1, PAGE + 1, 3);
    expect(guest.access(1, IOVA, READ)).toBe(0x80000n);
    guest.refresh(1, PAGE, 1);
    expect(guest.access(1, IOVA, READ)).toBe(0x90000n);
  });
});

test('a refresh of one page says all of the frame that covered it', () => {
  const { guest, tables } = registered();
  tables.frame(PAGE, 3);
  const said: unknown[] = [];
  guest.iommu.observe({ attach: () => 0, changed: (_, first, last) => void said.push([first, last]), flush: () => 0 });
  runsOf(guest.iommu.spaceOf(1)!);
  tables.set(tables.entry(1, PAGE >> 8), INVALID);
  guest.refresh(1, PAGE, 1);
  expect(said).toEqual([[FIRST, FIRST + 255]]);
});

describe('zPCI interrupts', () => {
  const vector = 0x3000n;
  const summary = 0x3100n;
  const parameters = { 40: (0x2002_0081n | (9n << 8n)) << 32n, 48: vector, 56: summary };

  test('a message sets the bits of interrupt and function, and interrupts once until the guest clears the summary', () => {
    const { guest } = registered();
    expect(guest.modify(1, 2, parameters)).toEqual([0, 0]);
    expect(guest.modify(1, 2, parameters)).toEqual([1, 24]);
    guest.iommu.message(1, 1);
    // Bit 9 + 1, counted from the left.
    expect(guest.load(vector)).toBe(2n ** 53n);
    expect(guest.load(summary)).toBe(2n ** 62n);
    guest.iommu.message(1, 0);
    expect(guest.load(vector)).toBe(2n ** 53n + 2n ** 54n);
    expect(guest.interruptions).toEqual([2]);
    guest.store(summary, 0n);
    guest.iommu.message(1, 0);
    expect(guest.interruptions).toEqual([2, 2]);
    guest.iommu.message(1, 2);
    expect(guest.load(vector)).toBe(2n ** 53n + 2n ** 54n);
    expect(guest.modify(1, 3)).toEqual([0, 0]);
    expect(guest.modify(1, 3)).toEqual([1, 24]);
    expect(guest.modify(1, 2, { ...parameters, 48: 2n ** 40n })).toEqual([1, 4]);
  });

  test('each bit of the doubleword that a vector begins in', () => {
    const { guest } = registered();
    const bits = { 40: (0x2000_0080n | (64n << 16n)) << 32n, 48: vector, 56: summary };
    expect(guest.modify(1, 2, bits)).toEqual([0, 0]);
    for (let number = 0; number < 64; number++) {
      guest.store(vector, 0n);
      guest.iommu.message(1, number);
      expect(guest.load(vector)).toBe(2n ** BigInt(63 - number));
    }
  });

  test.each([
    ['vector', { isGone: vector }],
    ['summary', { isGone: summary }],
  ])('a %s that is no memory any more is the function’s error, and interrupts nobody', (_, { isGone }) => {
    class Losing extends GuestMemory {
      lost = -1n;
      override load64(hi: number, lo: number): number {
        return BigInt(lo & ~7) === this.lost ? -1 : super.load64(hi, lo);
      }
    }
    const memory = new Losing(GuestMemory.ofBytes(RAM_PAGES * 4096).regions);
    const { guest } = registered('regionThird', 0n, memory);
    guest.modify(1, 2, parameters);
    memory.lost = isGone;
    guest.iommu.message(1, 1);
    expect([guest.interruptions, guest.events.map(({ code }) => code)]).toEqual([[], [PEC.indicator]]);
  });

  test('a guest that stores to the vector without end loses no interrupt', () => {
    class Busy extends GuestMemory {
      override compareExchange64(...words: Parameters<GuestMemory['compareExchange64']>): number {
        void words;
        return 0;
      }
    }
    const { guest } = registered('regionThird', 0n, new Busy(GuestMemory.ofBytes(RAM_PAGES * 4096).regions));
    guest.modify(1, 2, parameters);
    guest.iommu.message(1, 1);
    expect([guest.load(vector), guest.load(summary), guest.interruptions]).toEqual([2n ** 53n, 2n ** 62n, [2]]);
  });

  test('where MSIs go; a blocked function has none', () => {
    const { guest } = registered();
    expect(guest.iommu.isMessage(0xfe000000 | 0, 0)).toBe(true);
    expect(guest.iommu.isMessage(0xfe000000 | 0, 4096)).toBe(false);
    expect(guest.access(1, 0xfe00_0000_0000_0000n, WRITE)).toBe(0xfe00_0000_0000_0000n);
    guest.modify(1, 2, parameters);
    guest.iommu.fail(1, 0x3a, 0n);
    guest.iommu.message(1, 0);
    expect(guest.interruptions).toEqual([]);
    expect(guest.events.map(({ code }) => code)).toEqual([0x3a]);
    expect(new GeneralRegisters().u64).toHaveLength(16);
  });
});
