import type { SimKernel } from '../kernel.ts';
import { CdevFile } from './cdev.ts';
import { type IoctlHandler, IommufdContext } from './context.ts';
import { dirtyHandlers } from './dirty.ts';
import { faultHandlers } from './fault-queue.ts';
import { hwptHandlers } from './hwpt.ts';
import { invalidateHandlers } from './invalidate.ts';
import { ioasHandlers } from './ioas.ts';
import { option } from './option.ts';
import { veventHandlers } from './vevent-queue.ts';
import { vfioCompat } from './vfio-compat.ts';
import { viommuHandlers } from './viommu.ts';

const all: readonly IoctlHandler[] = [
  ...ioasHandlers,
  ...hwptHandlers,
  ...invalidateHandlers,
  ...dirtyHandlers,
  ...faultHandlers,
  ...viommuHandlers,
  ...veventHandlers,
  option,
];
/** /dev/iommu and the VFIO device nodes that bind to it. `more`: ioctls of /dev/iommu beside its own. */
export function iommufd(kernel: SimKernel, more: readonly IoctlHandler[] = []): void {
  const handlers = new Map([...all, ...more].map((entry) => [entry.number, entry] as const));
  kernel.nodes.set('/dev/iommu', () => new IommufdContext(kernel, handlers, vfioCompat));
  for (const device of kernel.devices) kernel.nodes.set(device.path, () => new CdevFile(kernel, device));
}
