import { describe, expect, test } from 'vitest';
import { openHost } from '../../../src/host/registry.ts';
import { simKernel } from '../../../src/host/sim/index.ts';
import { READ, WRITE } from '../../../src/memory/access.ts';
import { hiOfPfn, loOfPfn, PFN_LIMIT, pfnOf } from '../../../src/memory/address.ts';
import { GuestMemory } from '../../../src/memory/guest-memory.ts';
import { NO_PASID } from '../../../src/target/target.ts';
import { Machine } from '../../../src/vmm/machine.ts';
import { FENCE, fence, Guest, invalDdt, invalGvma, invalGvmaPage, invalVma, invalVmaRange, Reg } from './guest.ts';

const RAM_PAGES = 4096;
const DEVICE = 8;
const PSCID = 5;

/** A device behind the IOMMU, passed through to the simulated kernel, shadowed. */
function passed() {
  const kernel = simKernel({ devices: [{ name: 'vfio0' }] });
  const ram = kernel.allocate(RAM_PAGES * 4096);
  const memory = new GuestMemory([{ gpa: 0n, buffer: ram.buffer, hostAddress: ram.address }]);
  const guest = new Guest({}, RAM_PAGES, {}, memory);
  guest.iommu.addEndpoint(DEVICE);
  const host = openHost('iommufd', kernel);
  const machine = new Machine({ memory, target: guest.iommu, host });
  machine.passThrough(DEVICE, kernel.devices[0].path);
  guest.start();
  const hostPfn = (pfn: number, access: number) => {
    const found = kernel.devices[0].hostPfn(pfn, access);
    return found < 0 ? -1 : found - pfnOf(ram.address);
  };
  const calls = (action: () => void) => {
    const before = { map: host.calls.map, unmap: host.calls.unmap };
    action();
    return { map: host.calls.map - before.map, unmap: host.calls.unmap - before.unmap };
  };
  return { guest, hostPfn, calls };
}

describe('host calls on the shadow path', () => {
  test.each([
    ['one IOTINVAL.VMA of the range', [invalVmaRange({ pscid: PSCID, pfn: 0x400, pages: 512 })]],
    ['one of everything', [invalVma({})]],
    ['one of the process', [invalVma({ pscid: PSCID })]],
    ['512 of a page each', Array.from({ length: 250 }, (_, i) => invalVmaRange({ pscid: PSCID, pfn: 0x400 + 4 * i, pages: 4 }))],
  ])('512 × 4 KiB contiguous, %s: 1 map; cleared: 1 unmap; the same again: none', (_, invalidations) => {
    const { guest, hostPfn, calls } = passed();
    const { table, root } = guest.table('sv39');
    guest.setContext(DEVICE, { first: { mode: 8, root, pscid: PSCID } });
    guest.command(invalDdt(DEVICE), fence());
    for (let page = 0; page < 512; page++) table.map(0x400 + page, 0xc03 + page, 1, READ | WRITE);
    expect(calls(() => guest.command(...invalidations, fence()))).toEqual({ map: 1, unmap: 0 });
    expect([hostPfn(0x400, WRITE), hostPfn(0x5ff, READ), hostPfn(0x600, READ)]).toEqual([0xc03, 0xe02, -1]);
    expect(calls(() => guest.command(...invalidations, fence()))).toEqual({ map: 0, unmap: 0 });
    table.unmap(0x400, 512);
    expect(calls(() => guest.command(...invalidations, fence()))).toEqual({ map: 0, unmap: 1 });
    expect(hostPfn(0x400, READ)).toBe(-1);
  });
});

test('the hardware agrees before IOFENCE.C writes its data ("IOMMU Command-queue Fence commands")', () => {
  const { guest, hostPfn } = passed();
  const { table, root } = guest.table('sv39');
  guest.setContext(DEVICE, { first: { mode: 8, root, pscid: PSCID } });
  guest.command(invalDdt(DEVICE), fence());
  const seen: (number | bigint)[] = [];
  const { memory } = guest;
  const store32 = memory.store32.bind(memory);
  memory.store32 = (hi, lo, value) => {
    if (lo === FENCE * 4096) seen.push(hostPfn(0x10, READ), value);
    return store32(hi, lo, value);
  };
  table.map(0x10, 0x20, 1, READ);
  guest.command(invalVma({ pscid: PSCID, pfn: 0x10 }), fence(7));
  table.unmap(0x10, 1);
  guest.command(invalVma({ pscid: PSCID, pfn: 0x10 }), fence(8));
  expect(seen).toEqual([0x20, 7, -1, 8]);
});

test('two stages: what both map, and an invalidation of either', () => {
  const { guest, hostPfn, calls } = passed();
  const first = guest.table('sv48');
  const second = guest.table('sv39', true);
  // The first stage's tables, one to one; its outputs elsewhere.
  second.table.map(0, 0, 0x800, READ | WRITE);
  second.table.map(0x10000, 0xd00, 64, READ | WRITE);
  first.table.map(0x7000, 0x10000, 32, READ | WRITE);
  guest.setContext(DEVICE, { first: { mode: 9, root: first.root, pscid: PSCID }, second: { mode: 8, root: second.root, gscid: 3 } });
  expect(calls(() => guest.command(invalDdt(DEVICE), fence()))).toEqual({ map: 1, unmap: 0 });
  expect([hostPfn(0x7000, WRITE), hostPfn(0x701f, WRITE), hostPfn(0x7020, READ)]).toEqual([0xd00, 0xd1f, -1]);
  second.table.unmap(0x10000, 8);
  guest.command(invalGvma(3), fence());
  expect([hostPfn(0x7007, READ), hostPfn(0x7008, READ)]).toEqual([-1, 0xd08]);
  first.table.unmap(0x7008, 8);
  guest.command(
    invalVma({ gscid: 3, pscid: PSCID, pfn: 0x7008 }),
    invalVmaRange({ gscid: 3, pscid: PSCID, pfn: 0x7008, pages: 8 }),
    fence(),
  );
  expect([hostPfn(0x7008, READ), hostPfn(0x7010, READ)]).toEqual([-1, 0xd10]);
});

/** IOTINVAL, "entries that contain leaf page table entries corresponding to the IOVA": all of the leaf, whichever of its pages ADDR names. */
describe('an invalidation of one page of a leaf that was 2 MiB takes all of it from the hardware', () => {
  test.each([0x400, 0x455, 0x5ff])('IOTINVAL.VMA of page %i', (pfn) => {
    const { guest, hostPfn } = passed();
    const { table, root } = guest.table('sv39');
    guest.setContext(DEVICE, { first: { mode: 8, root, pscid: PSCID } });
    table.map(0x400, 0x400, 512, READ | WRITE);
    table.map(0x600, 0x801, 4, READ | WRITE);
    guest.command(invalDdt(DEVICE), fence());
    expect([0x400, 0x401, 0x5ff, 0x600].map((page) => hostPfn(page, READ))).toEqual([0x400, 0x401, 0x5ff, 0x801]);
    table.unmap(0x400, 512);
    guest.command(invalVma({ pscid: PSCID, pfn }), fence());
    expect([0x400, 0x401, 0x5ff, 0x600].map((page) => hostPfn(page, READ))).toEqual([-1, -1, -1, 0x801]);
  });

  test('behind a second stage of 4 KiB pages', () => {
    const { guest, hostPfn } = passed();
    const first = guest.table('sv39');
    const second = guest.table('sv39', true);
    second.table.map(0, 0, 0x800, READ | WRITE);
    for (let page = 0; page < 512; page++) second.table.map(0x10000 + page, 0x800 + (page ^ 1), 1, READ | WRITE);
    first.table.map(0x400, 0x10000, 512, READ | WRITE);
    guest.setContext(DEVICE, { first: { mode: 8, root: first.root, pscid: PSCID }, second: { mode: 8, root: second.root, gscid: 3 } });
    guest.command(invalDdt(DEVICE), fence());
    expect([0x400, 0x5ff].map((page) => hostPfn(page, READ))).toEqual([0x801, 0x9fe]);
    first.table.unmap(0x400, 512);
    guest.command(invalVma({ gscid: 3, pscid: PSCID, pfn: 0x433 }), fence());
    expect([0x400, 0x5ff].map((page) => hostPfn(page, READ))).toEqual([-1, -1]);
  });

  test('IOTINVAL.GVMA where the first stage is Bare', () => {
    const { guest, hostPfn } = passed();
    const { table, root } = guest.table('sv39', true);
    guest.setContext(DEVICE, { second: { mode: 8, root, gscid: 3 } });
    table.map(0x400, 0x400, 512, READ | WRITE);
    guest.command(invalDdt(DEVICE), fence());
    expect(hostPfn(0x5ff, READ)).toBe(0x5ff);
    table.unmap(0x400, 512);
    guest.command(invalGvmaPage(3, 0x433), fence());
    expect([0x400, 0x433, 0x5ff].map((page) => hostPfn(page, READ))).toEqual([-1, -1, -1]);
  });
});

describe('looping tables: one register access reads about what one enumeration may, and the next goes on', () => {
  /** A device whose table's entries all lead back to its root: 512^3 entries to read. `loads` are those since the last call. */
  function looping() {
    const { guest } = passed();
    const { memory } = guest;
    const { root } = guest.table('sv39');
    guest.setContext(DEVICE, { first: { mode: 8, root, pscid: PSCID } });
    guest.command(invalDdt(DEVICE), fence());
    for (let at = 0; at < 4096; at += 8) memory.store64(0, root * 4096 + at, 0, (root << 10) | 1);
    let count = 0;
    const load64 = memory.load64.bind(memory);
    memory.load64 = (hi, lo) => {
      count++;
      return load64(hi, lo);
    };
    const loads = () => {
      const result = count;
      count = 0;
      return result;
    };
    return { guest, loads };
  }

  test('pairs of IOTINVAL.VMA and IOFENCE.C: a pair for each access', () => {
    const { guest, loads } = looping();
    const { iommu, memory } = guest;
    guest.command(...Array.from({ length: 4 }, (_, i) => [invalVma({}), fence(i + 1)]).flat());
    for (let pair = 1; pair <= 4; pair++) {
      expect(loads()).toBeLessThan(2 ** 21 + 100);
      memory.load64(0, FENCE * 4096);
      expect(memory.word[0]).toBe(pair);
      // Reading the head processes before it answers: one pair more, until all is done.
      expect(iommu.read(Reg.cqh, 4)).toBe(BigInt(2 + 2 * Math.min(pair + 1, 4)));
    }
    expect(iommu.read(Reg.cqh, 4)).toBe(iommu.read(Reg.cqt, 4));
  });

  test('large ranges without a fence do not gather for one flush', () => {
    const { guest, loads } = looping();
    // Each is as much as an enumeration may read.
    const ranges = Array.from({ length: 12 }, (_, i) => invalVmaRange({ pscid: PSCID, pfn: 2 * i * 2 ** 21, pages: 2 ** 21 }));
    guest.command(...ranges);
    expect(loads()).toBeLessThan(2 * 2 ** 21 + 100);
  });

  test('hardware reaches what lies below the page where the reading stopped; a context made valid with such tables blocks', () => {
    const { guest, hostPfn } = passed();
    const { iommu, memory } = guest;
    const { root } = guest.table('sv39');
    const { root: loop } = guest.table('sv39');
    const entry = (page: number, index: number, value: number) => memory.store64(0, page * 4096 + index * 8, 0, value);
    guest.setContext(DEVICE, { first: { mode: 8, root, pscid: PSCID } });
    guest.command(invalDdt(DEVICE), fence());
    // Gigapages at both ends, U, R and W, and nothing but loops between.
    const leaf = 0xd7;
    for (let index = 0; index < 512; index++) entry(loop, index, (loop << 10) | 1);
    for (let index = 1; index < 511; index++) entry(root, index, (loop << 10) | 1);
    entry(root, 0, leaf);
    entry(root, 511, leaf);
    const TOP = PFN_LIMIT - 2 ** 18;
    guest.command(invalVma({}), fence());
    expect([hostPfn(0x123, WRITE), hostPfn(TOP + 0x123, WRITE)]).toEqual([0x123, -1]);
    expect(iommu.translate(DEVICE, NO_PASID, hiOfPfn(TOP), loOfPfn(TOP), WRITE)).toBe(30);
    guest.setContext(DEVICE, { first: { mode: 8, root, pscid: PSCID + 1 } });
    guest.command(invalDdt(DEVICE), fence());
    expect(hostPfn(0x123, WRITE)).toBe(-1);
  });
});
