import { describe, expect, test } from 'vitest';
import { READ, WRITE } from '../../../src/memory/access.ts';
import { GuestMemory } from '../../../src/memory/guest-memory.ts';
import type { AddressSpace } from '../../../src/target/target.ts';
import { COUNTER } from '../../../src/target/zpci/function.ts';
import { ccdfOf, FAULT_BLOCKED, INTERRUPTION, PEC, ZpciIommu, type ZpciIommuOptions } from '../../../src/target/zpci/index.ts';
import { STATUS } from '../../../src/target/zpci/spec/codes.ts';
import { FMB } from '../../../src/target/zpci/spec/fib.ts';
import { FIRST, Guest, GuestTables, handleOf, PAGES } from './guest.ts';

const IOVA = BigInt(FIRST) << 12n;
const DISABLED = 0x2_0000;

function started(options: Partial<ZpciIommuOptions> = {}): { guest: Guest; tables: GuestTables } {
  const guest = new Guest(options);
  const tables = new GuestTables(guest.memory, 0x10000n, 'regionThird');
  tables.map(FIRST, 0x80, 4);
  guest.start();
  return { guest, tables };
}

describe('CLP', () => {
  test('list: handles before and after, a page at a time', () => {
    const guest = new Guest();
    const list = (token: number, bytes: number) => guest.clp(2, [0, 0, 0, 0, token], bytes);
    const { cc, code, view } = list(0, 64);
    expect([cc, code, view.getUint16(0), view.getUint32(0x28), view.getUint32(0x2c), view.getUint32(0x3c)]).toEqual([
      0,
      0x10,
      64,
      1,
      DISABLED,
      DISABLED + 1,
    ]);
    const first = list(0, 48).view;
    expect([first.getUint32(0x28), first.getBigUint64(0x10)]).toEqual([1, 2n]);
    const second = list(2, 48).view;
    expect([second.getUint32(0x28), second.getBigUint64(0x10)]).toEqual([2, 0n]);
    expect(list(9, 48).code).toBe(0x10a);
    expect(list(0, 40).code).toBe(0x60);
    expect([list(0, 56).cc, list(0, 56).code]).toEqual([3, 0x50]);
  });

  test('query, and query group', () => {
    const guest = new Guest({ relaxedTranslation: true });
    const { code, view } = guest.clp(3, [0, 0, 0, DISABLED]);
    expect([code, view.getUint8(0x13), view.getUint32(0x14), view.getBigUint64(0x40), view.getUint32(0x7c)]).toEqual([
      0x10,
      0xff,
      1,
      IOVA,
      1,
    ]);
    expect(guest.clp(3, [0, 0, 0, DISABLED + 7]).code).toBe(0x101);
    const group = guest.clp(4, [0, 0, 0, 0xff]);
    expect([group.code, group.view.getUint16(0x10), group.view.getUint8(0x13), group.view.getUint8(0x18)]).toEqual([0x10, 128, 0x23, 0xf0]);
    expect(group.view.getBigUint64(0x28)).toBe(0xfe00_0000_0000_0000n);
    expect(guest.clp(4, [0, 0, 0, 3]).code).toBe(0x10b);
    expect(guest.clp(9, []).code).toBe(0x20);
  });

  test('set: each response code', () => {
    const guest = new Guest();
    expect(guest.set(DISABLED, 0, 0)).toBe(0x103);
    expect(guest.set(DISABLED, 0, 2)).toBe(0x104);
    expect(guest.set(DISABLED, 1)).toBe(0x102);
    expect(guest.set(DISABLED, 0)).toBe(0x10);
    expect(guest.set(DISABLED, 0)).toBe(0x101);
    expect(guest.set(handleOf(1), 0)).toBe(0x102);
    expect(guest.set(handleOf(1), 1)).toBe(0x10);
    expect(guest.set(DISABLED, 0)).toBe(0x10);
  });

  test('a standby function is configured first', () => {
    const { iommu } = new Guest({ functions: [{ fid: 1, standby: true }] });
    expect([iommu.configure(1, false), iommu.configure(1, true), iommu.configure(1, true)]).toEqual([false, true, false]);
    expect(() => iommu.configure(3, true)).toThrow(RangeError);
  });

  test.each([
    ['shorter than a header', [0, 8], INTERRUPTION.operand],
    ['odd', [0, 33], INTERRUPTION.operand],
    ['beyond the block', [0x1f, 0xf8], INTERRUPTION.addressing],
  ])('a request %s', (_, length, answer) => {
    const block = new Uint8Array(64);
    block.set(length, 0);
    expect(new Guest().iommu.clp(block)).toBe(answer);
  });
});

describe('MPCIFC and STPCIFC', () => {
  test('register, re-register and unregister translation: statuses', () => {
    const { guest, tables } = started();
    expect(guest.modify(1, 4, {}, 1)).toEqual([1, 28]);
    expect(guest.modify(1, 5)).toEqual([1, 24]);
    expect(guest.modify(1, 6)).toEqual([1, 24]);
    expect(guest.register(1, tables.iota)).toEqual([0, 0]);
    expect(guest.register(1, tables.iota)).toEqual([1, 24]);
    expect(guest.register(1, tables.iota, 6)).toEqual([0, 0]);
    expect(guest.modify(1, 5)).toEqual([0, 0]);
    expect(guest.access(1, IOVA, READ)).toBe(BigInt(FAULT_BLOCKED));
  });

  test('what no registration may be: PBA above PAL, outside the aperture, a designation without tables, T = 0 without leave', () => {
    const { guest, tables } = started({ designations: 0x40 });
    expect(guest.register(1, tables.iota, 4, FIRST - 1)[0]).toBe(INTERRUPTION.operand);
    expect(guest.register(1, tables.iota, 4, 2 ** 51)[0]).toBe(INTERRUPTION.operand);
    for (const type of [0n, 2n, 3n, 4n, 5n, 7n]) expect(guest.register(1, 0x10800n | (type << 2n))[0]).toBe(INTERRUPTION.operand);
    expect(guest.register(1, 0x10004n)[0]).toBe(INTERRUPTION.operand);
    expect(guest.modify(1, 77)[0]).toBe(INTERRUPTION.operand);
    expect(guest.modify(1, 4, { 0: 1n << 56n })[0]).toBe(INTERRUPTION.operand);
    expect(guest.iommu.mpcifc(guest.registers, 1, 0x1004n)).toBe(INTERRUPTION.specification);
    expect(guest.iommu.mpcifc(guest.registers, 1, 2n ** 40n)).toBe(INTERRUPTION.addressing);
  });

  test('handles: of a disabled function, and of none', () => {
    const { guest } = started();
    guest.set(handleOf(1), 1);
    expect(guest.modify(1, 4)[0]).toBe(3);
    expect(guest.modify(3, 4)[0]).toBe(3);
    expect(guest.refresh(1, FIRST, 1)[0]).toBe(3);
  });

  test('PBA and PAL are whole pages, whatever their low bits say', () => {
    const { guest, tables } = started();
    expect(guest.modify(1, 4, { 16: IOVA | 0x123n, 24: IOVA | 0x123n, 32: tables.iota })).toEqual([0, 0]);
    expect(guest.stored(handleOf(1)).fib.slice(2, 4)).toEqual([IOVA, IOVA | 0xfffn]);
    expect(guest.access(1, IOVA | 0xff8n, READ)).toBe(0x80ff8n);
  });

  test('a host that cannot follow leaves a function in the error state', () => {
    const { guest, tables } = started();
    guest.register(1, tables.iota);
    let result = 0;
    guest.iommu.observe({ attach: (_, space) => (space === null ? 0 : result), changed: () => {}, flush: () => 0 });
    guest.access(1, 0n, WRITE);
    result = -12;
    expect(guest.modify(1, 7)).toEqual([1, 16]);
    expect([guest.stored(handleOf(1)).fib[1]! >> 56n, guest.refresh(1, FIRST, 1)]).toEqual([0xf0n, [1, 40]]);
    result = 0;
    expect([guest.modify(1, 7), guest.access(1, IOVA, READ)]).toEqual([[0, 0], 0x80000n]);
  });

  test('STPCIFC: interrupts as they were registered; indicators lie in memory to their last bit', () => {
    const { guest } = started();
    // ISC 2, 9 interrupts from bit 17 on, summary bit 33.
    const parameters = (0x2009_0080n | (17n << 8n) | 33n) << 32n;
    const end = BigInt(guest.memory.regions[0]!.buffer.byteLength);
    expect(guest.modify(1, 2, { 40: parameters, 48: end - 3n, 56: 0x3100n })).toEqual([1, 4]);
    expect(guest.modify(1, 2, { 40: parameters, 48: 0x3000n, 56: end - 4n })).toEqual([1, 4]);
    expect(guest.modify(1, 2, { 40: parameters, 48: end - 4n, 56: end - 5n })).toEqual([0, 0]);
    expect(guest.stored(handleOf(1)).fib.slice(5, 8)).toEqual([parameters, end - 4n, end - 5n]);
  });

  test('error, blocked and enabled: what the guest finds in the FIB, and who does DMA', () => {
    const { guest, tables } = started();
    guest.register(1, tables.iota);
    const controls = () => guest.stored(handleOf(1)).fib[1] >> 56n;
    expect(controls()).toBe(0x90n);
    expect(guest.modify(1, 7)).toEqual([1, 24]);
    expect(guest.modify(1, 9)).toEqual([1, 24]);
    guest.access(1, 0n, WRITE);
    expect(controls()).toBe(0xf0n);
    expect(guest.refresh(1, FIRST, 1)).toEqual([1, 40]);
    expect(guest.modify(1, 9)).toEqual([0, 0]);
    expect(controls()).toBe(0xd0n);
    expect(guest.access(1, IOVA, READ)).toBe(BigInt(FAULT_BLOCKED));
    expect(guest.refresh(1, FIRST, 1)).toEqual([0, 0]);
    expect(guest.modify(1, 7)).toEqual([0, 0]);
    expect(guest.access(1, IOVA, READ)).toBe(0x80000n);
  });

  test('STPCIFC: PAL is the last byte of its page, whatever was registered; how interrupts were', () => {
    const { guest, tables } = started();
    expect(guest.modify(1, 4, { 16: IOVA, 24: (BigInt(FIRST + PAGES - 1) << 12n) | 5n, 32: tables.iota })).toEqual([0, 0]);
    // ISC, NOI, AIBVO, SUM, AISBO.
    const controls = (3n << 28n) | (5n << 16n) | (9n << 8n) | (1n << 7n) | 6n;
    expect(guest.modify(1, 2, { 40: controls << 32n, 48: 0x3000n, 56: 0x3100n })[0]).toBe(0);
    const { fib } = guest.stored(DISABLED);
    expect([fib[3], fib[5], fib[6], fib[7]]).toEqual([(BigInt(FIRST + PAGES) << 12n) - 1n, controls << 32n, 0x3000n, 0x3100n]);
  });

  test('reset of an error that a host does not follow: no room, and the function is in the error state (7)', () => {
    const { guest, tables } = started();
    guest.register(1, tables.iota);
    let refuses = false;
    guest.iommu.observe({ attach: (_, space) => (refuses && space !== null ? -12 : 0), changed: () => {}, flush: () => 0 });
    guest.access(1, 0n, WRITE);
    refuses = true;
    const [cc, status] = guest.modify(1, 7);
    expect([cc, status]).toEqual([1, STATUS.insufficient]);
    expect(guest.stored(handleOf(1)).fib[1] >> 56n).toBe(0xf0n);
    refuses = false;
    expect(guest.modify(1, 7)).toEqual([0, 0]);
    expect(guest.access(1, IOVA, READ)).toBe(0x80000n);
  });

  test('STPCIFC: what was registered; a disabled function has nothing, and its handle does not fit an enabled one', () => {
    const { guest, tables } = started();
    guest.register(1, tables.iota);
    guest.modify(1, 10, { 64: 0x3200n });
    const { cc, fib } = guest.stored(DISABLED);
    expect([cc, fib[2], fib[3], fib[4], fib[8]]).toEqual([0, IOVA, (BigInt(FIRST + PAGES) << 12n) - 1n, tables.iota, 0x3200n]);
    expect(guest.registers.u64[1] >> 32n).toBe(BigInt(handleOf(1)));
    guest.set(handleOf(1), 1);
    expect(guest.stored(handleOf(1)).cc).toBe(3);
    expect(guest.stored(DISABLED)).toEqual({ cc: 0, fib: new Array(10).fill(0n) });
    expect(guest.stored(handleOf(9)).cc).toBe(3);
    guest.registers.u64[1] = (BigInt(handleOf(2)) << 32n) | 0x10000n;
    expect([guest.iommu.stpcifc(guest.registers, 1, 0x1000n), guest.status(1)]).toEqual([1, 28]);
  });

  test('function measurement: counters and time, a block outside memory, a key', () => {
    const { guest } = started({ timeOfDay: () => 21n });
    guest.modify(1, 10, { 64: 0x3200n });
    guest.iommu.measure();
    guest.iommu.measure();
    expect([guest.load(0x3200n), guest.load(0x3208n)]).toEqual([1n, 42n]);
    guest.modify(1, 10, { 64: 2n ** 40n });
    guest.iommu.measure();
    guest.iommu.measure();
    expect(guest.modify(1, 10, { 64: 0x3201n })).toEqual([1, 0]);
    expect(guest.events.map(({ code }) => code)).toEqual([PEC.measurementAddress, PEC.measurementKey]);
    // A block of which only the beginning is memory, and none from then on.
    const end = BigInt(guest.memory.regions[0]!.buffer.byteLength);
    guest.modify(1, 10, { 64: end - 16n });
    for (let i = 0; i < 2; i++) guest.iommu.measure();
    expect(guest.events.slice(2).map(({ code, address }) => [code, address])).toEqual([[PEC.measurementAddress, end - 16n]]);
  });
});

test('loads, stores and store blocks are counted, until measurement is turned off; a store is of as many bytes as it says', () => {
  const stored: bigint[] = [];
  const spaces = {
    load: () => 1n,
    store: (...[, , , value]: [number, bigint, number, bigint]) => stored.push(value) > 0,
    takes: () => true,
  };
  const { guest } = started({ functions: [{ fid: 1, spaces }, { fid: 2 }] });
  const { iommu, registers } = guest;
  const counters = () => {
    guest.modify(1, 10, { 64: 0x3200n });
    iommu.measure();
    return [0, 1, 2].map((i) => guest.load(0x3200n + BigInt(FMB.COUNTERS + 8 * i)));
  };
  const aim = (bytes: number) => registers.u64.set([(BigInt(handleOf(1)) << 32n) | BigInt(bytes), 0n], 2);
  aim(1);
  for (let i = 0; i < 3; i++) iommu.pcilg(registers, 5, 2);
  registers.u64[5] = 0x1ffn;
  for (let i = 0; i < 2; i++) iommu.pcistg(registers, 5, 2);
  expect(stored).toEqual([0xffn, 0xffn]);
  aim(16);
  iommu.pcistb(registers, 2, 3, 0x3000n);
  expect(counters()).toEqual([3n, 2n, 1n]);
  guest.modify(1, 10, { 64: 0n });
  expect(counters()).toEqual([0n, 0n, 0n]);
});

describe('RPCIT', () => {
  test('outside PBA to PAL, and without a registration: error state and event', () => {
    const { guest, tables } = started();
    expect(guest.refresh(2, FIRST, 1)).toEqual([1, 8]);
    guest.register(1, tables.iota);
    expect(guest.refresh(1, FIRST + PAGES, 1)).toEqual([1, 8]);
    expect(guest.events.map(({ code, fid }) => [code, fid])).toEqual([
      [PEC.addressSpace, 2],
      [PEC.range, 1],
    ]);
  });

  test('one changed and one flush for each; no room where the host cannot follow; a registration that it cannot follow is none', () => {
    const { guest, tables } = started();
    const said: unknown[] = [];
    let result = 0;
    guest.iommu.observe({
      attach: (endpoint, space) => {
        said.push([endpoint, space?.name ?? null]);
        return space === null ? 0 : result;
      },
      changed: (_: AddressSpace, first, last) => void said.push([first, last]),
      flush: () => said.push('flush') && result,
    });
    guest.register(1, tables.iota);
    guest.refresh(1, FIRST + 2, 3);
    guest.refresh(1, FIRST - 1, 2);
    // Nothing is attached for a registration: what it brings is a change of what the hardware has.
    expect(said).toEqual([
      [1, 'function 0x1, nothing registered'],
      [2, 'function 0x2, nothing registered'],
      ...[[FIRST, FIRST + PAGES - 1], 'flush', [FIRST + 2, FIRST + 4], 'flush', [FIRST, FIRST], 'flush'],
    ]);
    result = -12;
    expect(guest.refresh(1, FIRST, 1)).toEqual([1, 16]);
    expect(guest.register(1, tables.iota, 6)).toEqual([1, 16]);
    expect(guest.stored(handleOf(1)).fib[4]).toBe(0n);
    result = 0;
    expect(guest.register(1, tables.iota)).toEqual([0, 0]);
  });

  test('what takes a registration away gives the function an empty space; more than one flush should map comes with a space of its own', () => {
    const { guest, tables } = started();
    const said: unknown[] = [];
    guest.iommu.observe({
      attach: (endpoint, space) => said.push([endpoint, space?.name.split(', ')[1], space?.apertures.length]) && 0,
      changed: () => void said.push('changed'),
      flush: () => said.push('flush') && 0,
    });
    said.length = 0;
    const told = (act: () => unknown) => {
      act();
      return said.splice(0);
    };
    const anchor = 'anchor 0x14804';
    const nothing = [1, 'nothing registered', 0];
    expect(told(() => guest.register(1, tables.iota))).toEqual(['changed', 'flush']);
    expect(told(() => guest.register(1, tables.iota, 6))).toEqual([[1, anchor, 1]]);
    expect(told(() => guest.modify(1, 5))).toEqual([nothing]);
    expect(told(() => guest.register(1, tables.iota))).toEqual(['changed', 'flush']);
    expect(told(() => guest.set(handleOf(1), 1))).toEqual([nothing]);
    expect(told(() => guest.set(DISABLED, 0))).toEqual([]);
    // 8,192 pages, all of them one: as many runs.
    tables.map(0, 0x80, 1);
    for (let page = 0; page < 256; page++) tables.map(page, 0x80, 1);
    for (let segment = 0; segment < 64; segment++) tables.set(tables.entry(1, segment), tables.pageEntry(0));
    expect(told(() => guest.register(1, tables.iota, 4, 64 * 256 - 1))).toEqual([[1, anchor, 1]]);
    expect(told(() => guest.iommu.fail(1, 0x3a, 0n))).toEqual([[1, undefined, undefined]]);
  });

  test('names every page that the bytes touch, and nothing below PBA', () => {
    const { guest, tables } = started();
    guest.register(1, tables.iota);
    const said: unknown[] = [];
    guest.iommu.observe({ attach: () => 0, changed: (_, first, last) => void said.push([first, last]), flush: () => 0 });
    const bytes = (address: bigint, count: bigint) => {
      guest.registers.u64[1] = BigInt(handleOf(1)) << 32n;
      guest.registers.u64[2] = address;
      guest.registers.u64[3] = count;
      return [guest.iommu.rpcit(guest.registers, 1, 2), guest.status(1)];
    };
    const start = BigInt(FIRST) << 12n;
    expect(bytes(start + 0xf00n, 0x101n)).toEqual([0, 0]);
    expect(bytes(start + 0xf00n, 0x100n)).toEqual([0, 0]);
    expect(bytes(start + 0x1000n, 0x1001n)).toEqual([0, 0]);
    expect(said).toEqual([
      [FIRST, FIRST + 1],
      [FIRST, FIRST],
      [FIRST + 1, FIRST + 2],
    ]);
    expect(bytes(start, 0n)).toEqual([0, 0]);
    expect(said).toHaveLength(3);
    for (const count of [0x2000n, 0x3000n, 0n]) {
      expect(bytes(start - 0x3000n, count)).toEqual([1, 8]);
      expect(guest.modify(1, 7)).toEqual([0, 0]);
    }
    expect(guest.events.map(({ code }) => code)).toEqual([PEC.range, PEC.range, PEC.range]);
  });

  test('4 GiB and more at once: only what a segment table can translate is read of it', () => {
    const { guest } = started();
    const tables = new GuestTables(guest.memory, 0x40000n, 'segment');
    guest.register(1, tables.iota, 4, 2 ** 21 - 1);
    const said: unknown[] = [];
    guest.iommu.observe({ attach: () => 0, changed: (_, first, last) => void said.push([first, last]), flush: () => 0 });
    expect(guest.refresh(1, FIRST, 2 ** 20 + 1)).toEqual([0, 0]);
    expect([said, guest.events]).toEqual([[[FIRST, FIRST + 2 ** 20]], []]);
  });

  test('is counted in the measurement block, where it was carried out', () => {
    const { guest, tables } = started();
    guest.register(1, tables.iota);
    guest.modify(1, 10, { 64: 0x3200n });
    for (let i = 0; i < 3; i++) guest.refresh(1, FIRST, 1);
    guest.iommu.measure();
    expect(guest.load(0x3200n + BigInt(FMB.COUNTERS + 8 * COUNTER.refresh))).toBe(3n);
  });

  test('an odd second register', () => {
    const { guest } = started();
    expect(guest.iommu.rpcit(guest.registers, 1, 3)).toBe(INTERRUPTION.specification);
  });
});

describe('loads and stores', () => {
  function accessed() {
    const stores: unknown[] = [];
    const spaces = {
      load: (space: number, offset: bigint, bytes: number) => (offset > 0xfffn ? null : BigInt(space * 100 + bytes)),
      store: (space: number, offset: bigint, bytes: number, value: bigint) => {
        stores.push([space, offset, bytes, value]);
        return offset < 0x1000n;
      },
      takes: (_: number, offset: bigint) => offset < 0x1000n,
    };
    const { guest } = started({ functions: [{ fid: 1, spaces }, { fid: 2 }] });
    const aim = (space: number, bytes: number, offset: bigint) => {
      guest.registers.u64[2] = (BigInt(handleOf(1)) << 32n) | BigInt((space << 16) | bytes);
      guest.registers.u64[3] = offset;
    };
    return { guest, stores, aim };
  }

  test('PCILG and PCISTG reach the function; what crosses a cell, and spaces that there are not', () => {
    const { guest, stores, aim } = accessed();
    aim(15, 4, 4n);
    expect([guest.iommu.pcilg(guest.registers, 5, 2), guest.registers.u64[5]]).toEqual([0, 1504n]);
    aim(0, 2, 6n);
    expect(guest.iommu.pcistg(guest.registers, 5, 2)).toBe(0);
    expect(stores).toEqual([[0, 6n, 2, 1504n]]);
    for (const [space, bytes, offset] of [
      [0, 4, 6n],
      [0, 0, 0n],
      [15, 3, 0n],
      [15, 4, 2n],
      [0, 4, 0x1000n],
    ] as const) {
      aim(space, bytes, offset);
      expect(guest.iommu.pcilg(guest.registers, 5, 2)).toBe(INTERRUPTION.operand);
    }
    aim(7, 4, 0n);
    expect([guest.iommu.pcilg(guest.registers, 5, 2), guest.status(2)]).toEqual([1, 20]);
    guest.iommu.fail(1, 0x3a, 0n);
    aim(0, 4, 0n);
    expect([guest.iommu.pcilg(guest.registers, 5, 2), guest.status(2)]).toEqual([1, 12]);
    guest.modify(1, 9);
    expect(guest.iommu.pcilg(guest.registers, 5, 2)).toBe(0);
  });

  test('PCISTB: eight bytes at a time, big-endian', () => {
    const { guest, stores, aim } = accessed();
    guest.store(0x3000n, 0x0102030405060708n);
    guest.store(0x3008n, 9n);
    aim(1, 16, 8n);
    expect(guest.iommu.pcistb(guest.registers, 2, 3, 0x3000n)).toBe(0);
    expect(stores).toEqual([
      [1, 8n, 8, 0x0102030405060708n],
      [1, 16n, 8, 9n],
    ]);
    aim(1, 8, 8n);
    expect(guest.iommu.pcistb(guest.registers, 2, 3, 0x3000n)).toBe(INTERRUPTION.specification);
    aim(1, 16, 0xff8n);
    expect(guest.iommu.pcistb(guest.registers, 2, 3, 0x3000n)).toBe(INTERRUPTION.specification);
    aim(1, 16, 8n);
    expect(guest.iommu.pcistb(guest.registers, 2, 3, 2n ** 40n)).toBe(INTERRUPTION.addressing);
  });

  test('PCISTB: all of a block or nothing', () => {
    const stores: bigint[] = [];
    const asked: unknown[] = [];
    const spaces = {
      load: () => null,
      store: (_: number, offset: bigint) => stores.push(offset) > 0,
      takes: (space: number, offset: bigint, bytes: number) => {
        asked.push([space, offset, bytes]);
        return offset < 16n;
      },
    };
    const { guest } = started({ functions: [{ fid: 1, spaces }, { fid: 2 }] });
    const storeBlock = (fid: number, bytes: number, offset: bigint) => {
      guest.registers.u64[2] = (BigInt(handleOf(fid)) << 32n) | BigInt((1 << 16) | bytes);
      guest.registers.u64[3] = offset;
      return guest.iommu.pcistb(guest.registers, 2, 3, 0x3000n);
    };
    expect([storeBlock(1, 24, 0n), stores]).toEqual([INTERRUPTION.operand, []]);
    expect(asked).toEqual([
      [1, 0n, 8],
      [1, 8n, 8],
      [1, 16n, 8],
    ]);
    expect([storeBlock(1, 16, 0n), stores]).toEqual([0, [0n, 8n]]);
    expect(storeBlock(2, 16, 0n)).toBe(INTERRUPTION.operand);
  });

  test('PCISTB: 128 bytes at most', () => {
    const { guest, stores, aim } = accessed();
    aim(1, 128, 0n);
    expect([guest.iommu.pcistb(guest.registers, 2, 3, 0x3000n), stores.length]).toEqual([0, 16]);
    aim(1, 136, 0n);
    expect([guest.iommu.pcistb(guest.registers, 2, 3, 0x3000n), stores.length]).toEqual([INTERRUPTION.specification, 16]);
  });

  test.each(['load', 'store', 'takes'] as const)('spaces without %s are refused', (name) => {
    const spaces = { load: () => null, store: () => true, takes: () => true, [name]: undefined };
    expect(() => started({ functions: [{ fid: 1, spaces }] })).toThrow(new TypeError(`ZpciIommu: spaces.${name} is no function`));
  });
});

test.each(['isc', 'interrupts', 'summary', 'vectorBit', 'summaryBit', 'vector', 'summaryAddress'])(
  'a saved state whose indicators have a wrong %s is refused, and a right one is not',
  (field) => {
    const { guest } = started();
    expect(guest.modify(1, 2, { 0: 1n << 32n, 8: 0x100n, 40: 0x3000n, 48: 0x3100n })[0]).toBe(0);
    const state = JSON.parse(JSON.stringify(guest.iommu.save()));
    guest.iommu.load(state);
    state.functions[0].indicators[field] = -1;
    expect(() => guest.iommu.load(state)).toThrow('not a saved state: function 0');
  },
);

test('an error event as the guest reads it', () => {
  const bytes = ccdfOf({ code: 0x4, handle: 0x8002_0001, fid: 3, address: 0x11_fffe_0000n });
  expect(Buffer.from(bytes).toString('hex')).toBe('0000000080020001000000030000000000000011fffe00000000000000000004');
});

test.each<[string, Partial<ZpciIommuOptions>, typeof RangeError | typeof TypeError]>([
  ['memory', { memory: {} as never }, TypeError],
  ['functions', { functions: 7 as never }, TypeError],
  ['fid', { functions: [{ fid: -1 }] }, RangeError],
  ['fid', { functions: [{ fid: 1 }, { fid: 1, uid: 2 }] }, RangeError],
  ['uid', { functions: [{ fid: 0 }] }, RangeError],
  ['aperture', { functions: [{ fid: 1, aperture: { start: 4096n, last: 8190n } }] }, RangeError],
  ['designations', { designations: 0x48 }, RangeError],
  ['msiAddress', { msiAddress: 5n }, RangeError],
  ['interrupts', { interrupts: 4096 }, RangeError],
])('misuse of %s is refused by name', (name, options, kind) => {
  const make = () => new ZpciIommu({ memory: GuestMemory.ofBytes(4096), functions: [{ fid: 1 }], ...options });
  expect(make).toThrow(kind);
  expect(make).toThrow(name);
});
