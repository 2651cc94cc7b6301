import * as uapi from '../../vfio/uapi.ts';
import type { SimInterface } from '../kernel.ts';
import { type ContainerDriver, ContainerFile, type DriverTypes } from './container.ts';
import { GroupFile } from './group.ts';
import { TceDriver } from './spapr-tce.ts';
import { Type1Driver } from './type1.ts';

/** Default of type1's module parameter dma_entry_limit. */
const DMA_ENTRY_LIMIT = 65535;

/** /dev/vfio/vfio and /dev/vfio/GROUP, with the type1 and the sPAPR TCE IOMMU drivers loaded. */
export const vfio: SimInterface = (kernel) => {
  const drivers: DriverTypes = new Map<number, () => ContainerDriver>([
    [uapi.VFIO_TYPE1v2_IOMMU, () => new Type1Driver(kernel, kernel.machine.dmaEntryLimit ?? DMA_ENTRY_LIMIT)],
    [uapi.VFIO_SPAPR_TCE_IOMMU, () => new TceDriver(kernel, 1)],
    [uapi.VFIO_SPAPR_TCE_v2_IOMMU, () => new TceDriver(kernel, 2)],
  ]);
  const eeh = kernel.iommus.some(({ config }) => config.tce !== null && config.tce.eeh !== false);
  const extensions = new Set(eeh ? [uapi.VFIO_UNMAP_ALL, uapi.VFIO_EEH] : [uapi.VFIO_UNMAP_ALL]);
  kernel.nodes.set('/dev/vfio/vfio', () => new ContainerFile(drivers, extensions));
  for (const group of kernel.groups.values()) kernel.nodes.set(`/dev/vfio/${group.number}`, () => GroupFile.open(kernel, group));
};
