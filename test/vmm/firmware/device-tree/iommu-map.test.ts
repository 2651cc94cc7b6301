import { expect, test } from 'vitest';
import { DeviceNode } from '../../../../src/vmm/firmware/device-tree/device-tree.ts';
import { mapStreams } from '../../../../src/vmm/firmware/device-tree/iommu-map.ts';

/* iommu-map of Linux's binding pci-iommu. */

test('a bus says which of its requester IDs are which streams', () => {
  const ranges = [
    { first: 0, count: 0x100, output: 0x1000 },
    { first: 0x200, count: 8, output: 0 },
  ];
  expect(mapStreams(new DeviceNode('pcie'), 7, ranges).cells('iommu-map')).toEqual([0, 7, 0x1000, 0x100, 0x200, 7, 0, 8]);
  expect(() => mapStreams(new DeviceNode('pcie'), 7, [{ first: -1, count: 1, output: 0 }])).toThrow(/^mapStreams: first -1 is not in/);
});
