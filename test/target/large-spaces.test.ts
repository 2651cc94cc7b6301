import { describe, expect, test } from 'vitest';
import { StoreWatch } from '../../src/accel/index.ts';
import { openHost } from '../../src/host/registry.ts';
import { simKernel } from '../../src/host/sim/index.ts';
import { READ, READ_WRITE } from '../../src/memory/access.ts';
import { pfnOf } from '../../src/memory/address.ts';
import { GuestMemory } from '../../src/memory/guest-memory.ts';
import type { PageTable } from '../../src/pagetable/page-table.ts';
import type { Schedule } from '../../src/target/remainder.ts';
import { CONFIG } from '../../src/target/smmuv3/spec/ste.ts';
import type { Target } from '../../src/target/target.ts';
import { Machine } from '../../src/vmm/index.ts';
import * as amd from './amd/guest.ts';
import * as smmuv3 from './smmuv3/guest.ts';
import * as vtd from './vtd/guest.ts';

/* Tables of more entries than one enumeration reads: 4 GiB of 4 KiB pages. What one invalidation of all of them leaves alone stays mapped. */

const RAM_PAGES = 1024;
const DEVICE = 8;
const GIGAPAGE = 2 ** 18;
/** Where the first page leads: not aligned, so that pages stay small. */
const BASE = 0x101;

interface LargeGuest {
  readonly target: Target;
  readonly table: PageTable;
  /** The table whose entries are a gigapage each, once a page is mapped. */
  giga(): number;
  load(address: number): bigint;
  store(address: number, entry: bigint): void;
  start(): void;
  /** Everything of the domain is invalidated, and the guest waits in memory. */
  invalidate(): void;
  isDone(): boolean;
}

const ADDRESS = 0xf_ffff_ffff_f000n;
const pageIn = (entry: bigint) => Number((entry & ADDRESS) >> 12n);

const GUESTS: Readonly<Record<string, (memory: GuestMemory, schedule: Schedule) => LargeGuest>> = {
  'VT-d': (memory, schedule) => {
    const guest = new vtd.Guest({}, RAM_PAGES, { schedule }, memory);
    const { root, table } = guest.secondStage();
    guest.iommu.addEndpoint(DEVICE);
    return {
      target: guest.iommu,
      table,
      giga: () => pageIn(guest.load(root * 4096)),
      load: (address) => guest.load(address),
      store: (address, entry) => guest.store(address, entry),
      start: () => {
        guest.setContext(DEVICE, { root, did: 1 });
        guest.start();
      },
      invalidate: () => guest.submit(vtd.iotlbDomain(1), vtd.wait(7)),
      isDone: () => guest.load(vtd.STATUS * 4096) === 7n,
    };
  },
  'AMD-Vi': (memory, schedule) => {
    const guest = new amd.Guest({ schedule }, memory);
    const { root, table } = guest.v1();
    guest.iommu.addEndpoint(DEVICE);
    return {
      target: guest.iommu,
      table,
      giga: () => root,
      load: (address) => guest.load(BigInt(address)),
      store: (address, entry) => guest.store(BigInt(address), entry),
      start: () => {
        guest.setDevice(DEVICE, { mode: 3, root, domain: 1 });
        guest.start();
      },
      invalidate: () => guest.command(amd.invalidatePages(1, 0, 51), amd.completionWait(1n, 7n)),
      isDone: () => guest.load(amd.DONE) === 7n,
    };
  },
  SMMUv3: (memory, schedule) => {
    const guest = new smmuv3.Guest({ schedule }, memory);
    const made = guest.table();
    guest.smmu.addEndpoint(DEVICE);
    return {
      target: guest.smmu,
      table: made.table,
      giga: () => made.root,
      load: (address) => guest.load(address),
      store: (address, entry) => guest.store(address, entry),
      start: () => {
        guest.setContext(0, smmuv3.contextOf(7, made));
        guest.setStream(DEVICE, { CONFIG: CONFIG.stage1, S1CONTEXT_PTR: smmuv3.CONTEXTS / 64 });
        guest.start();
      },
      invalidate: () => guest.command(smmuv3.tlbiAsid(7), smmuv3.sync((1n << 12n) | (7n << 32n), BigInt(smmuv3.DONE))),
      isDone: () => guest.load(smmuv3.DONE) === 7n,
    };
  },
};

describe.each(Object.entries(GUESTS))('%s', (_name, make) => {
  test('an invalidation of all takes what the guest took, and nothing else, before the guest is told; between any two host calls', () => {
    const kernel = simKernel({ devices: [{ name: 'vfio0' }] });
    const ram = kernel.allocate(RAM_PAGES * 4096);
    const memory = new GuestMemory([{ gpa: 0n, buffer: ram.buffer, hostAddress: ram.address }]);
    const later: (() => void)[] = [];
    const schedule: Schedule = (work) => void later.push(work);
    const guest = make(memory, schedule);
    for (let page = 0; page < 512; page++) guest.table.map(page, BASE + page, 1, READ_WRITE);
    const giga = guest.giga() * 4096;
    const middle = pageIn(guest.load(giga)) * 4096;
    for (let i = 1; i < 512; i++) guest.store(middle + 8 * i, guest.load(middle));
    for (let i = 1; i < 4; i++) guest.store(giga + 8 * i, guest.load(giga));
    guest.start();
    const machine = new Machine({ memory, target: guest.target, host: openHost('iommufd', kernel), watch: new StoreWatch(), schedule });
    machine.passThrough(DEVICE, kernel.devices[0].path);
    while (later.length > 0) later.shift()!();
    const reached = (page: number) => {
      const found = kernel.devices[0].hostPfn(page, READ);
      return found < 0 ? -1 : found - pfnOf(ram.address) - BASE;
    };
    const stays = [5, GIGAPAGE + 0x1ff, 3 * GIGAPAGE - 1];
    const goes = 3 * GIGAPAGE + 5;
    expect([...stays, goes].map(reached)).toEqual([5, 0x1ff, 0x1ff, 5]);
    const lost: number[] = [];
    kernel.hooks.observe({ after: () => void lost.push(...stays.filter((page) => reached(page) < 0)) });
    guest.store(giga + 8 * 3, 0n);
    guest.invalidate();
    let slices = 0;
    for (; !guest.isDone() && later.length > 0; slices++) later.shift()!();
    expect([guest.isDone(), reached(goes), lost]).toEqual([true, -1, []]);
    expect(slices).toBeGreaterThan(0);
    machine.close();
  });
});
