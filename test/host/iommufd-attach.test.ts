import { describe, expect, test } from 'vitest';
import { errno } from '../../src/host/errno.ts';
import { IommufdHost } from '../../src/host/iommufd/index.ts';
import { DMA_BLOCKED, simKernel, vtd } from '../../src/host/sim/index.ts';
import { READ } from '../../src/memory/access.ts';
import { pfnOf } from '../../src/memory/address.ts';

/** A space that turns out not to be one for a device that the kernel has attached: the device goes back, and is believed to be where it is. */

const ATTACH = 'VFIO_DEVICE_ATTACH_IOMMUFD_PT';
const DETACH = 'VFIO_DEVICE_DETACH_IOMMUFD_PT';

test.each([
  { from: 'nowhere', failing: [], reaches: 'nothing' },
  { from: 'nowhere', failing: [DETACH], reaches: 'space' },
  { from: 'other', failing: [], reaches: 'other' },
  { from: 'other', failing: [ATTACH], reaches: 'nothing' },
  { from: 'other', failing: [ATTACH, DETACH], reaches: 'space' },
] as const)('refused after it was attached, come from $from, with $failing failing: it reaches $reaches', ({ from, failing, reaches }) => {
  const kernel = simKernel();
  const host = new IommufdHost(kernel);
  const device = host.openDevice(kernel.device().path);
  const [mine, others] = [0, 1].map(() => pfnOf(kernel.allocate(4096).address));
  const other = host.createSpace();
  const space = host.createSpace({ granuleLg2: 12 });
  expect([other.map(0x10, others, 1, READ), space.map(0x10, mine, 1, READ)]).toEqual([0, 0]);
  if (from === 'other') expect(other.attach(device)).toBe(0);

  kernel.hooks.fail({ kind: 'IOMMU_IOAS_IOVA_RANGES', nth: 1, errno: errno.EIO });
  // The first attachment is the one that is undone.
  for (const kind of failing) kernel.hooks.fail({ kind, nth: kind === ATTACH ? 2 : 1, errno: errno.ENOMEM });
  expect(space.attach(device)).toBe(-errno.EIO);

  const stays = ', and the kernel does not take it out of the space again';
  expect(space.error?.message).toMatch(new RegExp(`cannot be asked${reaches === 'space' ? stays : ''}\\)$`));
  expect(device.attachment).toBe({ nothing: null, space, other }[reaches]);
  expect(kernel.device().hostPfn(0x10, READ)).toBe({ nothing: DMA_BLOCKED, space: mine, other: others }[reaches]);
  host.close();
});

test('a page table of another IOMMU is refused by name', () => {
  const kernel = simKernel({ iommus: [{}, {}], devices: [{ name: 'vfio0' }, { name: 'vfio1', iommu: 1 }] });
  const host = new IommufdHost(kernel);
  const [device, other] = ['vfio0', 'vfio1'].map((name) => host.openDevice(kernel.device(name).path));
  const table = host.createPageTable(device, host.createSpace());
  expect(table.attach(device)).toBe(0);
  expect(table.attach(other)).toBe(-errno.EINVAL);
  expect(table.error?.message).toContain('vfio1: it is behind another IOMMU than the page table is made for');
  expect(other.attachment).toBeNull();
  host.close();
});

describe('a table that VT-d’s driver refuses, which has blocked the device then (7.3: intel_iommu_attach_device)', () => {
  /** Devices in the group of each number, in a space that maps a page; the last of them could wait for pages. */
  function start(...groups: readonly number[]) {
    const kernel = simKernel({
      iommus: [{ nesting: vtd(), pasidLog2: 20 }],
      devices: groups.map((group, index) => ({ name: `vfio${index}`, group, pageRequests: index === groups.length - 1 && index > 0 })),
    });
    const host = new IommufdHost(kernel);
    const devices = groups.map((_, index) => host.openDevice(kernel.device(`vfio${index}`).path));
    const space = host.createSpace();
    const page = pfnOf(kernel.allocate(4096).address);
    expect(space.map(0x10, page, 1, READ)).toBe(0);
    const reached = () => groups.map((_, index) => kernel.device(`vfio${index}`).hostPfn(0x10, READ));
    return { kernel, host, devices, space, page, reached };
  }

  test.each(['space', 'page table'] as const)('the device is in its %s again, as is believed', (kind) => {
    const { host, devices, space, page, reached } = start(1);
    const before = kind === 'space' ? space : host.createPageTable(devices[0], space);
    expect(before.attach(devices[0])).toBe(0);
    const table = host.createPageTable(devices[0], space, { faults: host.createFaultQueue() });
    const { attach } = host.calls;
    expect(table.attach(devices[0])).toBe(-errno.ENODEV);
    expect(host.calls.attach - attach, 'refused; detached, attached').toBe(3);
    expect(devices[0].attachment).toBe(before);
    expect(reached()).toEqual([page]);
    expect(table.error?.errno).toBe(errno.ENODEV);
    host.close();
  });

  test('so is its group', () => {
    const { host, devices, space, page, reached } = start(1, 1, 2);
    for (const device of devices) expect(space.attach(device)).toBe(0);
    const table = host.createPageTable(devices[0], space, { faults: host.createFaultQueue() });
    expect(table.attach(devices[0])).toBe(-errno.ENODEV);
    expect(devices.map(({ attachment }) => attachment)).toEqual([space, space, space]);
    expect(reached()).toEqual([page, page, page]);
    host.close();
  });

  test('one that cannot come back is blocked, and so it is believed', () => {
    const { kernel, host, devices, space, reached } = start(1);
    expect(space.attach(devices[0])).toBe(0);
    const table = host.createPageTable(devices[0], space, { faults: host.createFaultQueue() });
    kernel.hooks.fail({ kind: ATTACH, nth: 2, errno: errno.ENOMEM });
    expect(table.attach(devices[0])).toBe(-errno.ENODEV);
    expect(devices[0].attachment).toBeNull();
    expect(reached()).toEqual([DMA_BLOCKED]);
    expect(space.attach(devices[0])).toBe(0);
    host.close();
  });

  test('so does a space whose devices wait for pages refuse one that cannot', () => {
    const { host, devices, space, page, reached } = start(1, 2);
    const other = host.createSpace({ pageRequests: host.pageRequests.createQueue() });
    expect(other.map(0x10, page, 1, READ)).toBe(0);
    const { attach } = host.calls;
    expect([other.attach(devices[1]), host.calls.attach - attach]).toEqual([0, 1]);
    expect(space.attach(devices[0])).toBe(0);
    expect(other.attach(devices[0]), 'it cannot wait for pages').toBe(-errno.ENODEV);
    expect(devices[0].attachment).toBe(space);
    expect(reached()).toEqual([page, page]);
    host.close();
  });

  test('what a device has reserved is looked at before, and interrupts nothing', () => {
    const { host, devices, space, page, reached } = start(1);
    expect(space.attach(devices[0])).toBe(0);
    const taken = host.createSpace();
    expect(taken.map(0xfee00, page, 1, READ)).toBe(0);
    const { attach } = host.calls;
    expect(taken.attach(devices[0])).toBe(-errno.EADDRINUSE);
    expect(host.calls.attach - attach).toBe(1);
    expect(reached()).toEqual([page]);
    host.close();
  });
});
