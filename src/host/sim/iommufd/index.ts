import { ioctl } from '../../iommufd/uapi.ts';
import type { SimInterface } from '../kernel.ts';
import { CdevFile } from './cdev.ts';
import { type IoctlHandler, IommufdContext } from './context.ts';
import { dirtyHandlers } from './dirty.ts';
import { faultHandlers } from './fault-queue.ts';
import { hwptHandlers } from './hwpt.ts';
import { invalidateHandlers } from './invalidate.ts';
import { ioasHandlers } from './ioas.ts';
import { option } from './option.ts';
import { veventHandlers } from './vevent-queue.ts';
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
const handlers = new Map(all.map((entry) => [ioctl[entry.name], entry] as const));

/** /dev/iommu and the VFIO device nodes that bind to it. */
export const iommufd: SimInterface = (kernel) => {
  kernel.nodes.set('/dev/iommu', () => new IommufdContext(kernel, handlers));
  for (const device of kernel.devices) kernel.nodes.set(device.path, () => new CdevFile(kernel, device));
};
