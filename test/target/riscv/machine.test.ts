import { describe, expect, test } from 'vitest';
import { StoreWatch } from '../../../src/accel/store-watch.ts';
import { openHost } from '../../../src/host/registry.ts';
import { simKernel } from '../../../src/host/sim/index.ts';
import { READ, WRITE } from '../../../src/memory/access.ts';
import { pfnOf } from '../../../src/memory/address.ts';
import { GuestMemory } from '../../../src/memory/guest-memory.ts';
import { Machine } from '../../../src/vmm/machine.ts';
import { FENCE, fence, Guest, invalDdt, invalGvma, invalGvmaPage, invalVma, invalVmaRange, Reg } from './guest.ts';

const RAM_PAGES = 4096;
const DEVICE = 8;
const PSCID = 5;

/** A device behind the IOMMU, passed through to the simulated kernel, shadowed. */
function passed(schedule: (work: () => void) => void = () => {}) {
  const kernel = simKernel({ devices: [{ name: 'vfio0' }] });
  const ram = kernel.allocate(RAM_PAGES * 4096);
  const memory = new GuestMemory([{ gpa: 0n, buffer: ram.buffer, hostAddress: ram.address }]);
  const guest = new Guest({}, RAM_PAGES, { schedule }, memory);
  guest.iommu.addEndpoint(DEVICE);
  const host = openHost('iommufd', kernel);
  // This guest says every change by an invalidation as well.
  const machine = new Machine({ memory, target: guest.iommu, host, watch: new StoreWatch() });
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

  test('behind a second stage of 4 KiB pages', async () => {
    const { guest, hostPfn } = passed();
    const first = guest.table('sv39');
    const second = guest.table('sv39', true);
    second.table.map(0, 0, 0x800, READ | WRITE);
    for (let page = 0; page < 512; page++) second.table.map(0x10000 + page, 0x800 + (page ^ 1), 1, READ | WRITE);
    first.table.map(0x400, 0x10000, 512, READ | WRITE);
    guest.setContext(DEVICE, { first: { mode: 8, root: first.root, pscid: PSCID }, second: { mode: 8, root: second.root, gscid: 3 } });
    guest.command(invalDdt(DEVICE), fence());
    // A host mapping for each page: a process's first slices are smaller, and what they leave follows.
    for (let turn = 0; turn < 50 && hostPfn(0x5ff, READ) < 0; turn++) await new Promise((done) => setImmediate(done));
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

describe('tables that lead back to themselves: a guest operation reads a bounded number of entries, and the next goes on', () => {
  /** Entries that one operation may read. */
  const OPERATION = 2 ** 19;
  const TOP = 255 * 2 ** 18;
  /** U, R, W, A and D. */
  const LEAF = 0xd7;

  /**
   * A device whose table has gigapages at both ends of the lower half, and between them `loops` entries that lead into a table all of whose entries lead back to it:
   * 512 x 512 entries behind each. `loads` are those since the last call.
   */
  function looping(loops: number, schedule: (work: () => void) => void = () => {}) {
    const { guest, hostPfn } = passed(schedule);
    const { memory } = guest;
    const { root } = guest.table('sv39');
    const { root: loop } = guest.table('sv39');
    const entry = (page: number, index: number, value: number) => memory.store64(0, page * 4096 + index * 8, 0, value);
    for (let index = 0; index < 512; index++) entry(loop, index, (loop << 10) | 1);
    entry(root, 0, LEAF);
    entry(root, 255, LEAF);
    guest.setContext(DEVICE, { first: { mode: 8, root, pscid: PSCID } });
    const makeLoops = () => {
      for (let index = 1; index <= loops; index++) entry(root, index, (loop << 10) | 1);
    };
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
    const fenced = () => {
      memory.load64(0, FENCE * 4096);
      return memory.word[0];
    };
    return { guest, hostPfn, makeLoops, loads, fenced, root };
  }

  test('IOTINVAL.VMA of everything: IOFENCE.C waits, what the guest left alone stays, each register access goes on', () => {
    const { guest, hostPfn, makeLoops, loads, fenced } = looping(8);
    guest.command(invalDdt(DEVICE), fence(1));
    expect([hostPfn(0x123, WRITE), hostPfn(TOP + 0x123, WRITE), fenced()]).toEqual([0x123, 0x123, 1]);
    makeLoops();
    loads();
    guest.command(invalVma({}), fence(2));
    let accesses = 1;
    for (; fenced() !== 2 && accesses < 100; accesses++) {
      expect(loads()).toBeLessThan(OPERATION);
      expect([hostPfn(0x123, WRITE), hostPfn(TOP + 0x123, WRITE)]).toEqual([0x123, 0x123]);
      guest.iommu.read(Reg.cqh, 4);
    }
    // 8 x 2^18 entries, twice each.
    expect(accesses).toBeGreaterThan(4);
    expect(fenced()).toBe(2);
    expect(guest.iommu.read(Reg.cqh, 4)).toBe(guest.iommu.read(Reg.cqt, 4));
  });

  test('a guest that waits in memory for IOFENCE.C, and accesses no register, is served too', () => {
    const later: (() => void)[] = [];
    const { guest, makeLoops, fenced } = looping(8, (work) => void later.push(work));
    guest.command(invalDdt(DEVICE), fence(1));
    makeLoops();
    guest.command(invalVma({}), fence(2));
    expect(fenced()).toBe(1);
    let slices = 0;
    for (; later.length > 0 && slices < 100; slices++) later.shift()!();
    expect(slices).toBeGreaterThan(4);
    expect(fenced()).toBe(2);
  });

  test('many large ranges without a fence; pairs of IOTINVAL and IOFENCE.C', () => {
    const { guest, makeLoops, loads } = looping(250);
    guest.command(invalDdt(DEVICE), fence());
    makeLoops();
    loads();
    guest.command(...Array.from({ length: 12 }, (_, i) => invalVmaRange({ pscid: PSCID, pfn: 2 * i * 2 ** 21, pages: 2 ** 21 })));
    expect(loads()).toBeLessThan(OPERATION);
    guest.command(...Array.from({ length: 4 }, (_, i) => [invalVma({}), fence(i + 1)]).flat());
    expect(loads()).toBeLessThan(2 * OPERATION);
    guest.command(...Array.from({ length: 200 }, (_, i) => invalVmaRange({ pscid: PSCID, pfn: (i + 1) * 2 ** 19, pages: 2 ** 12 })));
    expect(loads()).toBeLessThan(2 * OPERATION);
  });

  test('a device that enters such a space, by ddtp, IODIR or load: what was read is there, and the rest follows by itself', async () => {
    const { guest, hostPfn, makeLoops, loads } = looping(3);
    makeLoops();
    loads();
    const { iommu } = guest;
    const follows = async () => {
      expect(loads()).toBeLessThan(OPERATION);
      expect([hostPfn(0x123, WRITE), hostPfn(TOP + 0x123, WRITE)]).toEqual([0x123, -1]);
      for (let turn = 0; turn < 50 && hostPfn(TOP, WRITE) < 0; turn++) await new Promise((done) => setImmediate(done));
      expect(hostPfn(TOP + 0x123, WRITE)).toBe(0x123);
      loads();
    };
    guest.command(invalDdt(DEVICE), fence());
    await follows();
    iommu.write(Reg.ddtp, 8, 0n);
    expect(hostPfn(0x123, WRITE)).toBe(-1);
    guest.setMode(2);
    await follows();
    const state = iommu.save();
    iommu.write(Reg.ddtp, 8, 0n);
    iommu.load(state);
    await follows();
  });

  test('forty devices with such tables of their own: one register access, or load', () => {
    const { guest, makeLoops, loads, root } = looping(250);
    makeLoops();
    const heard = Array.from({ length: 40 }, (_, i) => i + 20);
    let enumerated = 0;
    const other = new Guest({}, RAM_PAGES, {}, guest.memory);
    for (const device of heard) {
      other.setContext(device, { first: { mode: 8, root, pscid: device } });
      other.iommu.addEndpoint(device);
    }
    other.iommu.observe({
      attach: (_, space) => {
        if (space !== null) enumerated += space.enumerate(0, 2 ** 26, () => true) > 0 ? 1 : 0;
        return 0;
      },
      changed: () => undefined,
      flush: () => 0,
    });
    loads();
    other.setMode(2);
    expect(enumerated).toBe(heard.length);
    expect(loads()).toBeLessThan(OPERATION + heard.length * 2 ** 13);
    other.iommu.load(other.iommu.save());
    expect(loads()).toBeLessThan(OPERATION + heard.length * 2 ** 13);
  });
});
