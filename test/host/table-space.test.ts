import { describe, expect, test } from 'vitest';
import { errno } from '../../src/host/errno.ts';
import { IommufdHost } from '../../src/host/iommufd/index.ts';
import { type IommuConfig, simKernel, smmuv3 } from '../../src/host/sim/index.ts';
import { READ_WRITE, WRITE } from '../../src/memory/access.ts';
import { pfnOf } from '../../src/memory/address.ts';

/* Spaces whose devices come by page tables of their own, where the kernel does not say what the hardware is, or has no such tables. */

const HW_INFO = 'IOMMU_GET_HW_INFO';

function machine(config: IommuConfig) {
  const kernel = simKernel({ iommus: [config] });
  const host = new IommufdHost(kernel);
  const device = host.openDevice(kernel.device().path);
  const memory = kernel.allocate(4096);
  const fail = (kind: string, code: number) => kernel.hooks.fail({ kind, nth: 1, errno: code });
  return { kernel, host, device, pfn: pfnOf(memory.address), fail };
}

describe('dirty bits', () => {
  test('are refused for a device of which the kernel says nothing', () => {
    const { host, device, fail } = machine({ dirtyTracking: true });
    fail(HW_INFO, errno.EIO);
    expect(host.refusesDirtyTracking(device)).toMatch(/^IOMMU_GET_HW_INFO: EIO/);
    expect(host.refusesDirtyTracking(device)).toBe(null);
    host.close();
  });

  test('that a table does not keep: the device comes all the same, and all counts as written', () => {
    const { kernel, host, device, pfn, fail } = machine({ dirtyTracking: true });
    for (const kind of ['IOMMU_HWPT_ALLOC', 'IOMMU_HWPT_SET_DIRTY_TRACKING']) {
      const space = host.createSpace({ dirtyTracking: true });
      fail(kind, errno.ENOMEM);
      expect(space.attach(device)).toBe(0);
      expect(space.dirty?.inexact).toMatch(`${kind}: ENOMEM`);
      expect(space.map(5, pfn, 1, READ_WRITE)).toBe(0);
      const told: number[][] = [];
      space.dirty?.read(0, 8, (first, last) => void told.push([first, last]));
      expect(told).toEqual([[0, 7]]);
      expect(space.detach(device)).toBe(0);
      space.close();
    }
    expect(kernel.live()).toMatchObject({ domains: 0 });
    host.close();
  });

  test('that cannot be read count as set', () => {
    const { host, device, pfn, fail } = machine({ dirtyTracking: true });
    const space = host.createSpace({ dirtyTracking: true });
    expect([space.attach(device), space.map(5, pfn, 1, READ_WRITE)]).toEqual([0, 0]);
    const told: number[][] = [];
    const read = () => space.dirty?.read(0, 8, (first, last) => void told.push([first, last]));
    fail('IOMMU_HWPT_GET_DIRTY_BITMAP', errno.EIO);
    read();
    read();
    expect([told, space.dirty?.inexact]).toEqual([[[0, 7]], null]);
    host.close();
  });
});

describe('pages for writing only', () => {
  const firstStages: IommuConfig = { nesting: smmuv3(), reserved: [] };

  test('are not lacked where the kernel has no call that says so, for then it nests nothing; another failure is the reason', () => {
    const { host, device, fail } = machine(firstStages);
    expect(host.lacksWriteOnly(device)).toBe('first stages of SMMUv3 have no pages for writing only');
    fail(HW_INFO, errno.ENOTTY);
    expect(host.lacksWriteOnly(device)).toBe(null);
    fail(HW_INFO, errno.EIO);
    expect(host.lacksWriteOnly(device)).toMatch(/^IOMMU_GET_HW_INFO: EIO/);
    host.close();
  });

  test('are had in second stages, which a device gets of whose hardware nothing is known', () => {
    const { kernel, host, device, pfn, fail } = machine(firstStages);
    for (const unknown of [false, true]) {
      const space = host.createSpace({ writeOnly: true });
      if (unknown) fail(HW_INFO, errno.EIO);
      expect([space.attach(device), space.map(5, pfn, 1, WRITE)]).toEqual([0, 0]);
      expect(kernel.device().dmaWrite(0x5000n, Uint8Array.of(1))).toBe(0);
      expect(kernel.device().dmaRead(0x5000n, new Uint8Array(1))).toBeLessThan(0);
      expect(space.detach(device)).toBe(0);
      space.close();
    }
    host.close();
  });
});

test('an object is destroyed once, however often it is closed, and not at all when its device took it along', () => {
  const { kernel, host, device } = machine({ nesting: smmuv3(), reserved: [] });
  const parent = host.createPageTable(device, host.createSpace(), { nestParent: true });
  const viommu = host.createViommu(device, parent, 1);
  const vdevice = viommu.addDevice(device, 7n);
  const destroyed = () => kernel.hooks.counts.get('IOMMU_DESTROY') ?? 0;
  device.close();
  const before = destroyed();
  vdevice.close();
  vdevice.close();
  expect(destroyed()).toBe(before);
  viommu.close();
  viommu.close();
  viommu[Symbol.dispose]();
  expect(destroyed()).toBe(before + 1);
  host.close();
});
