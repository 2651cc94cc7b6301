import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { errno } from '../../../src/host/errno.ts';
import { IommufdHost, type IommufdSpace } from '../../../src/host/iommufd/index.ts';
import { openKernelPort } from '../../../src/host/kernel/index.ts';
import type { PortMemory } from '../../../src/host/port.ts';
import { READ, READ_WRITE, WRITE } from '../../../src/memory/access.ts';
import { PAGE_BYTES, pfnOf } from '../../../src/memory/address.ts';
import { MOCK, Mock, type MockDevice } from './mock.ts';

/*
 * What QEMU's IOMMUs have not, on the kernel's own mock: nesting, invalidation, dirty bitmaps, page faults, vIOMMU objects,
 * hardware queues. The driver is the one that real hardware gets; only the numbers of types are the mock's.
 */

const port = await openKernelPort();
/** Within the mock's aperture, 16 MiB to 2 GiB. */
const IOVA = 0x1000_0000n;
const PAGES = 64;
const IOTLB = 0xbad_beef;

let host: IommufdHost;
let mock: Mock;
let space: IommufdSpace;
let device: MockDevice;
let memory: PortMemory;

beforeEach(() => {
  host = new IommufdHost(port);
  mock = new Mock(port, host);
  space = host.createSpace();
  device = mock.addDevice(space);
  memory = port.allocate(PAGES * PAGE_BYTES);
  expect(space.map(pfnOf(IOVA), pfnOf(memory.address), PAGES, READ_WRITE)).toBe(0);
});

afterEach(() => {
  host.close();
  mock.release();
  memory.release();
});

const nestedData = (iotlb = IOTLB) => ({ type: MOCK.stageOne, bytes: new Uint8Array(Uint32Array.of(iotlb, 0).buffer) });

test('a kernel-side access reads what is mapped, and nothing else', () => {
  const access = mock.createAccess(space);
  const into = port.allocate(PAGE_BYTES);
  new Uint8Array(memory.buffer).fill(0x5a, 3 * PAGE_BYTES, 4 * PAGE_BYTES);
  expect(mock.accessRead(access, IOVA + 0x3000n, into, 16)).toBe(0);
  expect([...new Uint8Array(into.buffer, 0, 16)]).toEqual(Array(16).fill(0x5a));
  expect(mock.accessRead(access, IOVA + BigInt(PAGES * PAGE_BYTES), into, 16)).toBe(-errno.ENOENT);
  port.close(access);
  into.release();
});

test('what the mock says of itself', () => {
  const info = host.hwInfo(device);
  expect(info).toMatchObject({ data: { kind: 'other', type: MOCK.hwInfo }, dirtyTracking: true });
  expect(new DataView((info.data as { bytes: Uint8Array }).bytes.buffer).getUint32(4, true)).toBe(0xdead_beef);
});

describe('nesting', () => {
  test('a first stage stands on a nesting parent, and keeps it', () => {
    const parent = host.createPageTable(device, space, { nestParent: true });
    const nested = host.createStageOne(device, parent, nestedData());
    expect(mock.attach(device, nested)).toBe(0);
    expect(() => parent.close()).toThrow(/EBUSY/);
    expect(() => nested.close()).toThrow(/EBUSY/);
    expect(mock.attach(device, space)).toBe(0);
    nested.close();
    parent.close();
  });

  test('what is no nesting parent, and what is no known type, is refused', () => {
    const plain = host.createPageTable(device, space);
    expect(() => host.createStageOne(device, plain, nestedData())).toThrow(/IOMMU_HWPT_ALLOC: EINVAL/);
    const parent = host.createPageTable(device, space, { nestParent: true });
    expect(() => host.createStageOne(device, parent, { type: 1, bytes: new Uint8Array(24) })).toThrow(/EOPNOTSUPP/);
  });

  test('invalidations go to the IOTLB entry that they name, one or all', () => {
    const parent = host.createPageTable(device, space, { nestParent: true });
    const nested = host.createStageOne(device, parent, nestedData());
    const batch = host.createInvalidations(nested, MOCK.invalidation, 8, 8);
    batch.add([0, 1]);
    batch.add([0, 3]);
    expect(batch.flush()).toBe(0);
    expect(batch.done).toBe(2);
    expect([0, 1, 2, 3].map((entry) => mock.iotlbHolds(nested, entry, IOTLB))).toEqual([true, false, true, false]);
    expect(mock.iotlbHolds(nested, 1, 0)).toBe(true);
    batch.add([1, 0]);
    expect(batch.flush()).toBe(0);
    expect([0, 1, 2, 3].every((entry) => mock.iotlbHolds(nested, entry, 0))).toBe(true);
  });

  test('of a batch with a bad entry, what stands before it is done', () => {
    const parent = host.createPageTable(device, space, { nestParent: true });
    const nested = host.createStageOne(device, parent, nestedData());
    const batch = host.createInvalidations(nested, MOCK.invalidation, 8, 8);
    batch.add([0, 0]);
    batch.add([0, MOCK.iotlbEntries]);
    batch.add([0, 1]);
    expect(batch.flush()).toBe(-errno.EINVAL);
    expect(batch.done).toBe(1);
    expect(mock.iotlbHolds(nested, 0, 0)).toBe(true);
    expect(mock.iotlbHolds(nested, 1, IOTLB)).toBe(true);
    expect(batch.error?.message).toMatch(/IOMMU_HWPT_INVALIDATE: EINVAL/);
  });
});

describe('dirty bitmaps', () => {
  test('pages that the hardware wrote are found once, or left to be found', () => {
    const table = host.createPageTable(device, space, { dirtyTracking: true });
    expect(mock.attach(device, table)).toBe(0);
    table.setDirtyTracking(true);
    const bitmap = port.allocate(PAGE_BYTES);
    new Uint8Array(bitmap.buffer).set([0b0110_0001, 0, 0, 0, 0, 0, 0, 0x80]);
    mock.dirty(table, IOVA, PAGES, bitmap);
    const found = (keep: boolean) => {
      const pages = new Set<number>();
      const add = (first: number, last: number) => {
        for (let page = first; page <= last; page++) pages.add(page - pfnOf(IOVA));
      };
      table.readDirty(pfnOf(IOVA), PAGES, add, { keep });
      return pages;
    };
    // A dirty bit belongs to a leaf entry, which can hold more pages than the one that was written.
    const kept = found(true);
    for (const page of [0, 5, 6, 63]) expect(kept, `page ${page}`).toContain(page);
    expect(found(false)).toEqual(kept);
    expect(found(false).size).toBe(0);
    table.setDirtyTracking(false);
    bitmap.release();
  });
});

describe('page faults', () => {
  test('a page request is read and answered, and a second answer is refused', () => {
    const faults = host.createFaultQueue();
    const parent = host.createPageTable(device, space, { nestParent: true });
    const nested = host.createStageOne(device, parent, nestedData(), { faults });
    expect(mock.attach(device, nested)).toBe(0);
    expect(faults.wait(0)).toBe(false);
    mock.requestPage(device, { pasid: 1, group: 7, permission: 0b11, address: 0xdead_0000_1000n });
    expect(faults.wait(1000)).toBe(true);
    const [fault, ...more] = faults.read();
    expect(more).toEqual([]);
    expect(fault).toMatchObject({ device: device.id, pasid: 1, group: 7, last: true, access: READ | WRITE, address: 0xdead_0000_1000n });
    faults.respond(fault.cookie, true);
    expect(() => faults.respond(fault.cookie, true)).toThrow(/EINVAL/);
    expect(faults.read()).toEqual([]);
    expect(mock.attach(device, space)).toBe(0);
  });
});

describe('vIOMMU objects', () => {
  function viommu(data?: Uint8Array) {
    const parent = host.createPageTable(device, space, { nestParent: true });
    return host.createViommu(device, parent, MOCK.viommu, data);
  }

  test('data goes in and comes out, and the page that it names can be mapped', () => {
    const data = new Uint8Array(24);
    const view = new DataView(data.buffer);
    view.setUint32(0, 0x1234_abcd, true);
    const made = viommu(data);
    expect(view.getUint32(4, true)).toBe(0x1234_abcd);
    const bytes = Number(view.getBigUint64(16, true));
    const page = made.mapPage(view.getBigUint64(8, true), bytes);
    expect(new Uint32Array(page.buffer)[0]).toBe(0x1234_abcd);
    expect(() => made.mapPage(0n, bytes)).toThrow(/mmap/);
    made.close();
  });

  test('a device has one virtual ID, and its caches are invalidated by it', () => {
    const made = viommu();
    made.addDevice(device, 0x99n);
    expect(() => made.addDevice(device, 0x98n)).toThrow(/EEXIST/);
    expect(mock.cacheHolds(device, 2, MOCK.cacheDefault)).toBe(true);
    const batch = host.createInvalidations(made, MOCK.invalidation, 12, 4);
    batch.add([0, 0x99, 2]);
    expect(batch.flush()).toBe(0);
    expect(mock.cacheHolds(device, 2, 0)).toBe(true);
    expect(mock.cacheHolds(device, 1, MOCK.cacheDefault)).toBe(true);
    batch.add([0, 0x98, 1]);
    expect(batch.flush()).toBe(-errno.EINVAL);
  });

  test('events come in order, and those that found no room are counted', () => {
    const made = viommu();
    made.addDevice(device, 0x99n);
    const nested = host.createStageOne(device, made, nestedData());
    expect(mock.attach(device, nested)).toBe(0);
    const events = made.createEventQueue(MOCK.eventQueue, 4, 2);
    expect(events.read()).toEqual([]);
    for (let i = 0; i < 4; i++) expect(mock.reportEvent(device)).toBe(0);
    const record = new Uint8Array(Uint32Array.of(0x99).buffer);
    const [first, second, lost] = events.read();
    expect([first, second]).toEqual([
      { lost: 0, data: record },
      { lost: 0, data: record },
    ]);
    expect(lost).toMatchObject({ data: null, lost: 2 });
    expect(mock.attach(device, space)).toBe(0);
  });

  test('hardware queues stand in order on memory that the guest has, and fall in reverse', () => {
    const made = viommu();
    expect(() => made.createHardwareQueue(MOCK.hardwareQueue, 1, IOVA, PAGE_BYTES)).toThrow(/EIO/);
    expect(() => made.createHardwareQueue(MOCK.hardwareQueue, 0, 0x5000_0000n, PAGE_BYTES)).toThrow(/HW_QUEUE_ALLOC: ENOENT/);
    const first = made.createHardwareQueue(MOCK.hardwareQueue, 0, IOVA, PAGE_BYTES);
    expect(() => made.createHardwareQueue(MOCK.hardwareQueue, 0, IOVA, PAGE_BYTES)).toThrow(/EEXIST/);
    const second = made.createHardwareQueue(MOCK.hardwareQueue, 1, IOVA + 0x1000n, PAGE_BYTES);
    expect(() => made.createHardwareQueue(MOCK.hardwareQueue, MOCK.queuesMax, IOVA, PAGE_BYTES)).toThrow(/EINVAL/);
    expect(space.unmap(pfnOf(IOVA), PAGES), 'memory that a queue lies in').toBe(-errno.EBUSY);
    expect(() => first.close()).toThrow(/EBUSY/);
    second.close();
    first.close();
    expect(space.unmap(pfnOf(IOVA), PAGES)).toBe(0);
  });
});
