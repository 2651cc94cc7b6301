import { expect, test } from 'vitest';
import { errno } from '../../src/host/errno.ts';
import { IommufdHost } from '../../src/host/iommufd/index.ts';
import { DMA_BLOCKED, simKernel } from '../../src/host/sim/index.ts';
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
