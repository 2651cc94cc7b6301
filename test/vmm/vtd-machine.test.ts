import { fc, test } from '@fast-check/vitest';
import { describe, expect } from 'vitest';
import { openHost } from '../../src/host/registry.ts';
import { type SimKernel, simKernel } from '../../src/host/sim/index.ts';
import { READ, READ_WRITE, WRITE } from '../../src/memory/access.ts';
import { hiOfPfn, loOfPfn, pfnOf, pfnOfHiLo } from '../../src/memory/address.ts';
import { GuestMemory } from '../../src/memory/guest-memory.ts';
import type { VtdSecondStageTable } from '../../src/pagetable/vtd-second-stage.ts';
import { NO_PASID } from '../../src/target/target.ts';
import { Machine } from '../../src/vmm/machine.ts';
import { reaching } from '../reaching.ts';
import { contextDevice, type Descriptor, Guest, iotlbDomain, iotlbGlobal, iotlbPages, wait } from '../target/vtd/guest.ts';

const RAM_PAGES = 2048;
const DEVICES = [0x20, 0x28];
const DID = 3;
/** IOVA page of the mappings. */
const BASE = 0x2_0000;

/** A guest of VT-d in legacy mode with caching mode, and two passed-through devices in one domain. */
class VtdGuest {
  readonly kernel: SimKernel;
  readonly guest: Guest;
  readonly machine: Machine;
  readonly table: VtdSecondStageTable;
  readonly ramPfn: number;
  readonly calls: () => { map: number; unmap: number };

  constructor(ramPages = RAM_PAGES) {
    this.kernel = simKernel({ iommus: [{}], devices: [{ name: 'vfio0' }, { name: 'vfio1' }] });
    const host = openHost('iommufd', this.kernel);
    const ram = this.kernel.allocate(ramPages * 4096);
    this.ramPfn = pfnOf(ram.address);
    const memory = new GuestMemory([{ gpa: 0n, buffer: ram.buffer, hostAddress: ram.address }]);
    this.guest = new Guest({}, RAM_PAGES, {}, memory);
    for (const device of DEVICES) this.guest.iommu.addEndpoint(device);
    this.machine = new Machine({ memory, target: this.guest.iommu, host });
    const { root, table } = this.guest.secondStage();
    this.table = table;
    for (const device of DEVICES) this.guest.setContext(device, { root, did: DID });
    this.guest.start();
    this.guest.submit(...DEVICES.map(contextDevice), iotlbGlobal, wait());
    for (const [i, device] of DEVICES.entries()) this.machine.passThrough(device, this.kernel.devices[i].path);
    this.calls = () => ({ map: host.calls.map, unmap: host.calls.unmap });
  }

  /** Host calls that one submission makes. */
  callsOf(...descriptors: readonly Descriptor[]): { map: number; unmap: number } {
    const before = this.calls();
    this.guest.submit(...descriptors, wait());
    const after = this.calls();
    return { map: after.map - before.map, unmap: after.unmap - before.unmap };
  }

  software(pfn: number): string | null {
    const { iommu } = this.guest;
    return reached((access) => {
      const lg2 = iommu.translate(DEVICES[0], NO_PASID, hiOfPfn(pfn), loOfPfn(pfn), access);
      return lg2 < 0 ? -1 : pfnOfHiLo(iommu.translated[1], iommu.translated[0]);
    });
  }

  hardware(pfn: number, device = 0): string | null {
    return reached((access) => {
      const host = this.kernel.devices[device].hostPfn(pfn, access);
      return host < 0 ? -1 : host - this.ramPfn;
    });
  }
}

function reached(find: (access: number) => number): string | null {
  const read = find(READ);
  const write = find(WRITE);
  return read < 0 && write < 0 ? null : `${Math.max(read, write)}/${(read < 0 ? 0 : READ) | (write < 0 ? 0 : WRITE)}`;
}

describe('host calls of a VT-d guest (QEMU 11.1 in brackets)', () => {
  test('512 contiguous pages of 4 KiB under one 2 MiB page-selective invalidation: 1 map (512), cleared 1 unmap (512)', () => {
    const vtd = new VtdGuest();
    // An offset between iova and output keeps the guest's driver from using a large page.
    vtd.table.map(BASE, 1025, 512, READ_WRITE);
    expect(vtd.callsOf(iotlbPages(DID, BASE, 9))).toEqual({ map: 1, unmap: 0 });
    expect(vtd.callsOf(iotlbPages(DID, BASE, 9))).toEqual({ map: 0, unmap: 0 });
    for (const device of [0, 1]) expect(vtd.hardware(BASE + 511, device)).toBe(`${1025 + 511}/3`);
    vtd.table.unmap(BASE, 512);
    expect(vtd.callsOf(iotlbPages(DID, BASE, 9))).toEqual({ map: 0, unmap: 1 });
    expect(vtd.hardware(BASE)).toBeNull();
  });

  test('32 × 2 MiB contiguous with one 64 MiB invalidation: 1 map (32)', () => {
    const vtd = new VtdGuest(RAM_PAGES + 33 * 512);
    vtd.table.map(BASE, RAM_PAGES, 32 * 512, READ_WRITE);
    expect(vtd.callsOf(iotlbPages(DID, BASE, 14))).toEqual({ map: 1, unmap: 0 });
    expect(vtd.hardware(BASE + 32 * 512 - 1)).toBe(`${RAM_PAGES + 32 * 512 - 1}/3`);
  });

  test('one 4 KiB page of a 2 MiB leaf named: the leaf goes whole', () => {
    const vtd = new VtdGuest();
    vtd.table.map(BASE, 1024, 512, READ_WRITE);
    expect(vtd.callsOf(iotlbPages(DID, BASE, 9))).toEqual({ map: 1, unmap: 0 });
    vtd.table.unmap(BASE, 512);
    expect(vtd.callsOf(iotlbPages(DID, BASE + 300))).toEqual({ map: 0, unmap: 1 });
    for (const page of [0, 299, 511]) expect(vtd.hardware(BASE + page)).toBeNull();
  });

  test('a context entry that becomes invalid blocks the device, a valid one lets it in again', () => {
    const vtd = new VtdGuest();
    vtd.table.map(BASE, 1025, 1, READ_WRITE);
    vtd.callsOf(iotlbDomain(DID));
    vtd.guest.setContext(DEVICES[0], null);
    vtd.callsOf(contextDevice(DEVICES[0]), iotlbDomain(DID));
    expect([vtd.hardware(BASE, 0), vtd.hardware(BASE, 1)]).toEqual([null, '1025/3']);
  });
});

const edit = fc.record({
  map: fc.boolean(),
  pfn: fc.nat(40),
  to: fc.integer({ min: 1024, max: RAM_PAGES - 64 }),
  pages: fc.integer({ min: 1, max: 24 }),
  permission: fc.constantFrom(READ, READ_WRITE),
});
const pages = Array.from({ length: 64 }, (_, i) => BASE + i);

const followed = reaching('random VT-d guests', 'a mapped page', 'a page that goes');
const EDIT = { map: true, pfn: 0, to: 1024, pages: 4, permission: READ_WRITE } as const;

test.prop([fc.array(edit, { minLength: 1, maxLength: 10 })], { numRuns: 30, examples: [[[EDIT, { ...EDIT, map: false }]]] })(
  'random guests: after each invalidation of the pages the hardware has what software translates',
  (edits) => {
    followed();
    const vtd = new VtdGuest();
    let before: readonly (string | null)[] = [];
    for (const { map, pfn, to, pages: count, permission } of edits) {
      if (map) vtd.table.map(BASE + pfn, to, count, permission);
      else vtd.table.unmap(BASE + pfn, count);
      vtd.guest.submit(iotlbPages(DID, BASE, 6), wait());
      const software = pages.map((page) => vtd.software(page));
      if (software.some((page) => page !== null)) followed('a mapped page');
      if (before.some((page, i) => page !== null && software[i] === null)) followed('a page that goes');
      before = software;
      for (const device of [0, 1]) expect(pages.map((page) => vtd.hardware(page, device))).toEqual(software);
    }
  },
);
