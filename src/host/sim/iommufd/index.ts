import { ioctl } from '../../iommufd/uapi.ts';
import type { SimInterface } from '../kernel.ts';
import { CdevFile } from './cdev.ts';
import { type IoctlHandler, IommufdContext } from './context.ts';
import { hwptHandlers } from './hwpt.ts';
import { ioasHandlers } from './ioas.ts';
import { option } from './option.ts';

const handlers = new Map<number, IoctlHandler>([...ioasHandlers, ...hwptHandlers, option].map((entry) => [ioctl[entry.name], entry]));

/** /dev/iommu and the VFIO device nodes that bind to it. */
export const iommufd: SimInterface = (kernel) => {
  kernel.nodes.set('/dev/iommu', () => new IommufdContext(kernel, handlers));
  for (const device of kernel.devices) kernel.nodes.set(device.path, () => new CdevFile(kernel, device));
};
