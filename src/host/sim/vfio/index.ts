import * as uapi from '../../vfio/uapi.ts';
import type { SimInterface } from '../kernel.ts';
import { ContainerFile, type DriverModule } from './container.ts';
import { GroupFile } from './group.ts';
import { TceDriver } from './spapr-tce.ts';
import { Type1Driver } from './type1.ts';

/** Default of type1's module parameter dma_entry_limit. */
const DMA_ENTRY_LIMIT = 65535;

/** /dev/vfio/vfio and /dev/vfio/GROUP, with the IOMMU drivers type1 and, on POWER, sPAPR TCE. */
export const vfio: SimInterface = (kernel) => {
  const type1: DriverModule = {
    types: [uapi.VFIO_TYPE1_IOMMU, uapi.VFIO_TYPE1v2_IOMMU],
    has: (extension, inContainer) => extension === uapi.VFIO_UNMAP_ALL || (extension === uapi.VFIO_UPDATE_VADDR && inContainer),
    create: (type) => new Type1Driver(kernel, kernel.machine.dmaEntryLimit ?? DMA_ENTRY_LIMIT, type === uapi.VFIO_TYPE1v2_IOMMU),
  };
  const bridges = kernel.iommus.flatMap(({ config: { tce } }) => (tce === null ? [] : [tce]));
  const spapr: DriverModule = {
    types: [uapi.VFIO_SPAPR_TCE_IOMMU, uapi.VFIO_SPAPR_TCE_v2_IOMMU],
    has: (extension) => extension === uapi.VFIO_EEH && bridges.some(({ eeh }) => eeh !== false),
    create: (type) => new TceDriver(kernel, type === uapi.VFIO_SPAPR_TCE_IOMMU ? 1 : 2),
  };
  // A kernel for PCs has no driver for POWER.
  const modules = bridges.length > 0 ? [type1, spapr] : [type1];
  kernel.nodes.set('/dev/vfio/vfio', () => new ContainerFile(modules));
  for (const group of kernel.groups.values()) kernel.nodes.set(`/dev/vfio/${group.number}`, () => GroupFile.open(kernel, group));
};
