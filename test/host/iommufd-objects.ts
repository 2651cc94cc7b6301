import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { errno } from '../../src/host/errno.ts';
import type { Handle, IommufdHost, IommufdSpace, KernelPageTable, StageOne } from '../../src/host/iommufd/index.ts';
import type { Port, PortMemory } from '../../src/host/port.ts';
import { READ_WRITE, WRITE } from '../../src/memory/access.ts';
import { pfnOf } from '../../src/memory/address.ts';
import { SELFTEST } from './mock/types.ts';

/**
 * Nesting, invalidation, dirty bitmaps, page faults, vIOMMUs and hardware queues on the mock IOMMU of the kernel's own selftests
 * (drivers/iommu/iommufd/iommufd_test.h): on the real kernel and on the simulated one with such a mock (mock/). Same calls, same answers.
 */

/** A device behind the mock. */
export interface MockDevice extends Handle {
  /** Moves it from what it is attached to. Returns 0 or a negative errno. */
  replace(to: Handle): number;
  attachPasid(pasid: number, to: Handle): number;
  detachPasid(pasid: number): number;
  /** Its request for a page. */
  pageFault(address: bigint, access: number): void;
  /** An event of the hardware for whoever has its vDEVICE. */
  event(): void;
}

export interface ObjectsFixture {
  readonly port: Port;
  readonly host: IommufdHost;
  /** A device attached to a space. */
  addDevice(space: IommufdSpace): MockDevice;
  /** What the mock's cache of the stage made last, or of a device by its virtual ID, holds at an index. */
  iotlb(stage: StageOne, index: number, value: number): boolean;
  cache(device: MockDevice, virtualId: number, index: number, value: number): boolean;
  /** The hardware writes a page behind a page table that a device is attached to. */
  write(device: MockDevice, table: KernelPageTable, page: number): void;
  close(): void;
}

const BASE = SELFTEST.base >>> 12;
const PAGES = 16;

/** struct iommu_hwpt_selftest */
function stageData(iotlb: number) {
  return { type: SELFTEST.hwptData, bytes: new Uint8Array(Uint32Array.of(iotlb, 0).buffer) };
}

export function iommufdObjects(name: string, create: () => ObjectsFixture): void {
  describe(`iommufd's objects on the mock IOMMU: ${name}`, () => {
    let fixture: ObjectsFixture;
    let host: IommufdHost;
    let memory: PortMemory;
    let space: IommufdSpace;
    let device: MockDevice;

    beforeEach(() => {
      fixture = create();
      host = fixture.host;
      memory = fixture.port.allocate(PAGES * 4096);
      space = host.createSpace();
      device = fixture.addDevice(space);
      expect(space.map(BASE, pfnOf(memory.address), PAGES, READ_WRITE)).toBe(0);
    });

    afterEach(() => {
      fixture.close();
      memory.release();
    });

    const parent = () => host.createPageTable(device, space, { nestParent: true });

    test('what the hardware says of itself is handed on', () => {
      const info = host.hwInfo(device);
      expect(info.data).toMatchObject({ kind: 'other', type: SELFTEST.hwInfo });
      expect(info.dirtyTracking).toBe(true);
      expect(() => host.hwInfo({ id: 4000 })).toThrow(/ENOENT/);
    });

    test('a first stage stands on a nesting parent only', () => {
      const nesting = parent();
      const plain = host.createPageTable(device, space);
      expect(() => host.createStageOne(device, plain, stageData(1))).toThrow(/IOMMU_HWPT_ALLOC: EINVAL/);
      expect(() => host.createStageOne(device, nesting, { ...stageData(1), type: 1 })).toThrow(/EOPNOTSUPP/);
      expect(() => host.createStageOne(device, nesting, { type: SELFTEST.hwptData, bytes: new Uint8Array(2) })).toThrow(/EINVAL/);
      expect(() => host.createStageOne(device, nesting, { type: SELFTEST.hwptData, bytes: new Uint8Array(16) })).toThrow(/EINVAL/);
      const stage = host.createStageOne(device, nesting, stageData(1));
      expect(() => host.createStageOne(device, stage as never, stageData(1))).toThrow(/EINVAL/);
      expect(device.replace(stage)).toBe(0);
      expect(() => nesting.close()).toThrow(/EBUSY/);
      expect(() => stage.close()).toThrow(/EBUSY/);
      expect(device.replace(space)).toBe(0);
      stage.close();
      nesting.close();
    });

    test('invalidations go up to the first that is wrong', () => {
      const value = 0xbad_beef;
      const stage = host.createStageOne(device, parent(), stageData(value));
      const holds = () => [0, 1, 2, 3].map((index) => fixture.iotlb(stage, index, value));
      expect(holds()).toEqual([true, true, true, true]);
      const batch = host.createInvalidations(stage, SELFTEST.hwptInvalidate, 8);
      batch.add([0, 1]);
      expect(batch.flush()).toBe(0);
      expect(holds()).toEqual([true, false, true, true]);
      batch.add([0, 0]);
      batch.add([0, 4]);
      batch.add([0, 2]);
      expect(batch.flush()).toBe(-errno.EINVAL);
      expect(batch.done).toBe(1);
      expect(holds()).toEqual([false, false, true, true]);
      batch.add([2, 2]);
      expect(batch.flush()).toBe(-errno.EOPNOTSUPP);
      expect(batch.done).toBe(0);
      batch.add([1, 0]);
      expect(batch.flush()).toBe(0);
      expect(holds()).toEqual([false, false, false, false]);
      const short = host.createInvalidations(stage, SELFTEST.hwptInvalidate, 4);
      short.add([0]);
      expect(short.flush()).toBe(-errno.EINVAL);
      const long = host.createInvalidations(stage, SELFTEST.hwptInvalidate, 12);
      long.add([0, 1, 0]);
      expect(long.flush()).toBe(-errno.EINVAL);
      const other = host.createInvalidations(stage, 0, 8);
      other.add([0, 0]);
      expect(other.flush()).toBe(-errno.EINVAL);
      const paging = host.createInvalidations(host.createPageTable(device, space), SELFTEST.hwptInvalidate, 8);
      paging.add([0, 0]);
      expect(paging.flush()).toBe(-errno.EINVAL);
    });

    test('a vIOMMU stands on a nesting parent, and first stages and devices on it', () => {
      const nesting = parent();
      expect(() => host.createViommu(device, nesting, 77)).toThrow(/IOMMU_VIOMMU_ALLOC: EOPNOTSUPP/);
      expect(() => host.createViommu(device, host.createPageTable(device, space), SELFTEST.viommu)).toThrow(/EINVAL/);
      const viommu = host.createViommu(device, nesting, SELFTEST.viommu);
      expect(() => nesting.close()).toThrow(/EBUSY/);
      const stage = host.createStageOne(device, viommu, stageData(7));
      expect(() => viommu.close()).toThrow(/EBUSY/);
      const virtual = viommu.addDevice(device, 0x99n);
      expect(() => viommu.addDevice(device, 0x98n)).toThrow(/IOMMU_VDEVICE_ALLOC: EEXIST/);
      const second = fixture.addDevice(space);
      expect(() => viommu.addDevice(second, 0x99n)).toThrow(/EEXIST/);
      viommu.addDevice(second, 0x98n);
      virtual.close();
      viommu.addDevice(device, 0x97n);
      expect(device.replace(stage)).toBe(0);
    });

    test('a vIOMMU’s invalidations reach the caches of its devices', () => {
      const viommu = host.createViommu(device, parent(), SELFTEST.viommu);
      viommu.addDevice(device, 0x99n);
      const holds = (index: number) => fixture.cache(device, 0x99, index, SELFTEST.deviceCache);
      const batch = host.createInvalidations(viommu, SELFTEST.viommuInvalidate, 12);
      expect([0, 1, 2, 3].map(holds)).toEqual([true, true, true, true]);
      batch.add([0, 0x99, 1]);
      batch.add([0, 0x98, 2]);
      batch.add([0, 0x99, 3]);
      expect(batch.flush()).toBe(-errno.EINVAL);
      expect(batch.done).toBe(1);
      expect([0, 1, 2, 3].map(holds)).toEqual([true, false, true, true]);
      batch.add([1, 0x99, 0]);
      expect(batch.flush()).toBe(0);
      expect([0, 1, 2, 3].map(holds)).toEqual([false, false, false, false]);
      const long = host.createInvalidations(viommu, SELFTEST.viommuInvalidate, 16);
      long.add([0, 0x99, 1, 1]);
      expect(long.flush()).toBe(-errno.E2BIG);
      long.add([0, 0x99, 1, 0]);
      expect(long.flush()).toBe(0);
      const short = host.createInvalidations(viommu, SELFTEST.viommuInvalidate, 8);
      short.add([0, 0x99]);
      expect([short.flush(), short.done]).toEqual([0, 1]);
    });

    test('events come in order, and those that a full queue has lost are counted', () => {
      const viommu = host.createViommu(device, parent(), SELFTEST.viommu);
      viommu.addDevice(device, 0x99n);
      expect(device.replace(host.createStageOne(device, viommu, stageData(7)))).toBe(0);
      const queue = viommu.createEventQueue(SELFTEST.veventq, 4, 3);
      expect(() => viommu.createEventQueue(SELFTEST.veventq, 4, 3)).toThrow(/IOMMU_VEVENTQ_ALLOC: EEXIST/);
      const seen = () => queue.read().map(({ lost, data }) => [lost, data === null ? null : new DataView(data.buffer).getUint32(0, true)]);
      expect(queue.wait(0)).toBe(false);
      expect(seen()).toEqual([]);
      device.event();
      expect(queue.wait(0)).toBe(true);
      expect(seen()).toEqual([[0, 0x99]]);
      for (let round = 0; round < 5; round++) device.event();
      expect(seen()).toEqual([
        [0, 0x99],
        [0, 0x99],
        [0, 0x99],
        [2, null],
      ]);
      device.event();
      expect(seen()).toEqual([[0, 0x99]]);
      for (let round = 0; round < 4; round++) device.event();
      expect(seen().at(-1)).toEqual([1, null]);
      expect(() => viommu.close()).toThrow(/EBUSY/);
      queue.close();
    });

    test('page faults are read, and answered by their cookie', () => {
      const faults = host.createFaultQueue();
      expect(() => host.createPageTable(device, space, { faults, nestParent: true })).toThrow(/EOPNOTSUPP/);
      const stage = host.createStageOne(device, parent(), stageData(1), { faults });
      expect(device.replace(stage)).toBe(0);
      expect(faults.read()).toEqual([]);
      device.pageFault(0xabc_d000n, WRITE);
      device.pageFault(0xabc_e000n, WRITE);
      expect(faults.wait(0)).toBe(true);
      const read = faults.read();
      expect(read.map(({ address }) => address)).toEqual([0xabc_d000n, 0xabc_e000n]);
      expect(read[0]).toMatchObject({ device: device.id, pasid: -1, access: WRITE, last: true });
      expect(faults.wait(0)).toBe(false);
      expect(() => faults.respond(read[1].cookie + 100, true)).toThrow(/EINVAL/);
      faults.respond(read[1].cookie, true);
      expect(() => faults.respond(read[1].cookie, true)).toThrow(/EINVAL/);
      faults.respond(read[0].cookie, false);
      expect(device.replace(space)).toBe(0);
      stage.close();
      faults.close();
    });

    test('hardware queues are made upwards, taken away downwards, and keep their memory mapped', () => {
      const viommu = host.createViommu(device, parent(), SELFTEST.viommu);
      const at = (page: number) => BigInt(BASE + page) << 12n;
      expect(() => viommu.createHardwareQueue(77, 0, at(0), 4096)).toThrow(/IOMMU_HW_QUEUE_ALLOC: EOPNOTSUPP/);
      expect(() => viommu.createHardwareQueue(SELFTEST.hwQueue, 2, at(0), 4096)).toThrow(/EINVAL/);
      expect(() => viommu.createHardwareQueue(SELFTEST.hwQueue, 1, at(0), 4096)).toThrow(/EIO/);
      expect(() => viommu.createHardwareQueue(SELFTEST.hwQueue, 0, at(PAGES), 4096)).toThrow(/ENOENT/);
      const first = viommu.createHardwareQueue(SELFTEST.hwQueue, 0, at(0), 4096);
      expect(() => viommu.createHardwareQueue(SELFTEST.hwQueue, 0, at(0), 4096)).toThrow(/EEXIST/);
      const second = viommu.createHardwareQueue(SELFTEST.hwQueue, 1, at(1), 4096);
      expect(() => first.close()).toThrow(/EBUSY/);
      expect(() => viommu.close()).toThrow(/EBUSY/);
      expect(space.unmap(BASE, PAGES)).toBe(-errno.EBUSY);
      second.close();
      expect(space.unmap(BASE, PAGES)).toBe(-errno.EBUSY);
      first.close();
      expect(space.unmap(BASE, PAGES)).toBe(0);
    });

    test('a page of hardware is mapped where the kernel says it is', () => {
      const nesting = parent();
      const data = new Uint8Array(Uint32Array.of(0x1234, 0, 0, 0, 0, 0).buffer);
      const viommu = host.createViommu(device, nesting, SELFTEST.viommu, data);
      const view = new DataView(data.buffer);
      expect(view.getUint32(4, true)).toBe(0x1234);
      const [offset, bytes] = [view.getBigUint64(8, true), Number(view.getBigUint64(16, true))];
      expect(bytes).toBeGreaterThanOrEqual(4096);
      expect(() => viommu.mapPage(offset, 2 * bytes)).toThrow(/ENXIO/);
      expect(() => viommu.mapPage(offset + 0x100_0000n, bytes)).toThrow(/ENXIO/);
      const page = viommu.mapPage(offset, bytes);
      new Uint8Array(page.buffer)[5] = 9;
      const again = viommu.mapPage(offset, bytes);
      expect(new Uint8Array(again.buffer)[5]).toBe(9);
      again.release();
      viommu.close();
    });

    test('dirty pages are told once, or kept; none where nothing is mapped or nobody tracks', () => {
      // Pages that happen to be neighbours in physical memory as well would be one entry, and told together.
      expect(space.unmap(BASE, PAGES)).toBe(0);
      space.setLargePages(false);
      expect(space.map(BASE, pfnOf(memory.address), PAGES, READ_WRITE)).toBe(0);
      const table = host.createPageTable(device, space, { dirtyTracking: true });
      expect(device.replace(table)).toBe(0);
      const dirty = (options = {}, first = BASE, pages = PAGES) => {
        const runs: number[][] = [];
        table.readDirty(first, pages, (from, to) => runs.push([from - BASE, to - BASE]), options);
        return runs;
      };
      expect(dirty()).toEqual([]);
      table.setDirtyTracking(true);
      expect(dirty()).toEqual([]);
      for (const page of [0, 1, 9]) fixture.write(device, table, BASE + page);
      const expected = [
        [0, 1],
        [9, 9],
      ];
      expect(dirty({ keep: true })).toEqual(expected);
      expect(dirty({}, BASE + 2, 4)).toEqual([]);
      expect(dirty()).toEqual(expected);
      expect(dirty()).toEqual([]);
      fixture.write(device, table, BASE);
      expect(dirty({}, BASE, PAGES + 1)).toEqual([[0, 0]]);
      expect(dirty({}, BASE + PAGES, 1)).toEqual([]);
      fixture.write(device, table, BASE);
      table.setDirtyTracking(true);
      expect(dirty()).toEqual([]);
      table.setDirtyTracking(false);
      expect(dirty()).toEqual([]);
      const untracked = host.createPageTable(device, space);
      expect(() => untracked.setDirtyTracking(true)).toThrow(/IOMMU_HWPT_SET_DIRTY_TRACKING: EOPNOTSUPP/);
    });

    test('PASIDs are attached to page tables that are made for it, beside one that is too', () => {
      const plain = host.createPageTable(device, space, { forPasid: true });
      const one = host.createPageTable(device, space, { forPasid: true });
      expect(device.attachPasid(100, one)).toBe(-errno.EINVAL);
      expect(device.replace(plain)).toBe(0);
      expect(device.attachPasid(100, one)).toBe(0);
      expect(device.attachPasid(101, host.createPageTable(device, space))).toBe(-errno.EINVAL);
      expect(device.replace(space)).toBe(-errno.EINVAL);
      expect(() => one.close()).toThrow(/EBUSY/);
      expect(device.detachPasid(100)).toBe(0);
      one.close();
      expect(device.replace(space)).toBe(0);
    });
  });
}
