import { requireArray, requireInteger, requireNumber, requireObject } from '../../../memory/arguments.ts';
import type { DeviceNode } from './device-tree.ts';

/** Requester IDs of a bus, `count` from `first` on, that the IOMMU knows by numbers from `output` on (an SMMU: StreamIDs). */
export interface StreamRange {
  readonly first: number;
  readonly count: number;
  readonly output: number;
}

/**
 * Says of a bus whose requests the IOMMU of a phandle translates, and as which streams: property `iommu-map` of Linux's binding pci-iommu.
 * @throws RangeError when a number does not fit a cell
 */
export function mapStreams(bus: DeviceNode, phandle: number, ranges: readonly StreamRange[]): DeviceNode {
  requireObject('mapStreams', 'bus', bus, 'DeviceNode', ['set']);
  requireNumber('mapStreams', 'phandle', phandle);
  requireArray('mapStreams', 'ranges', ranges);
  const entries = ranges.map(({ first, count, output }) => ({ first, phandle, output, count }));
  for (const entry of entries) for (const [name, value] of Object.entries(entry)) requireInteger('mapStreams', name, value, 0, 0xffff_ffff);
  return bus.set(
    'iommu-map',
    entries.flatMap(({ first, output, count }) => [first, phandle, output, count]),
  );
}
