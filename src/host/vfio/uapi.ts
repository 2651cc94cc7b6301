/**
 * What include/uapi/linux/vfio.h numbers for containers, groups and both of their IOMMU drivers: every ioctl is
 * _IO(';', 100 + n), so a number can mean one thing to type1 and another to sPAPR TCE.
 */
const io = (n: number) => (';'.charCodeAt(0) << 8) | (100 + n);

export const VFIO_API_VERSION = 0;
export const VFIO_GET_API_VERSION = io(0);
export const VFIO_CHECK_EXTENSION = io(1);
export const VFIO_SET_IOMMU = io(2);
export const VFIO_GROUP_GET_STATUS = io(3);
export const VFIO_GROUP_SET_CONTAINER = io(4);
export const VFIO_GROUP_UNSET_CONTAINER = io(5);
export const VFIO_GROUP_GET_DEVICE_FD = io(6);
export const VFIO_IOMMU_GET_INFO = io(12);
export const VFIO_IOMMU_MAP_DMA = io(13);
export const VFIO_IOMMU_UNMAP_DMA = io(14);
export const VFIO_IOMMU_ENABLE = io(15);
export const VFIO_IOMMU_DISABLE = io(16);
/** type1 */
export const VFIO_IOMMU_DIRTY_PAGES = io(17);
/** sPAPR TCE from here on. */
export const VFIO_IOMMU_SPAPR_REGISTER_MEMORY = io(17);
export const VFIO_IOMMU_SPAPR_UNREGISTER_MEMORY = io(18);
export const VFIO_IOMMU_SPAPR_TCE_CREATE = io(19);
export const VFIO_IOMMU_SPAPR_TCE_REMOVE = io(20);
export const VFIO_EEH_PE_OP = io(21);

/** Arguments of VFIO_CHECK_EXTENSION; the IOMMU types among them are VFIO_SET_IOMMU's too. */
export const VFIO_TYPE1_IOMMU = 1;
export const VFIO_SPAPR_TCE_IOMMU = 2;
export const VFIO_TYPE1v2_IOMMU = 3;
export const VFIO_EEH = 5;
export const VFIO_SPAPR_TCE_v2_IOMMU = 7;
export const VFIO_UNMAP_ALL = 9;
export const VFIO_UPDATE_VADDR = 10;

/** struct vfio_group_status: argsz, flags. */
export const VFIO_GROUP_STATUS_BYTES = 8;
export const VFIO_GROUP_FLAGS_VIABLE = 1;
export const VFIO_GROUP_FLAGS_CONTAINER_SET = 2;

/** struct vfio_iommu_type1_dma_map: argsz, flags, vaddr, iova, size. */
export const VFIO_DMA_MAP_BYTES = 32;
export const VFIO_DMA_MAP_FLAG_READ = 1;
export const VFIO_DMA_MAP_FLAG_WRITE = 2;

/** struct vfio_iommu_type1_dma_unmap: argsz, flags, iova, size, and a struct vfio_bitmap where a flag asks for one. */
export const VFIO_DMA_UNMAP_BYTES = 24;
export const VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP = 1;
export const VFIO_DMA_UNMAP_FLAG_ALL = 2;
/** struct vfio_bitmap: pgsize, size, data. */
export const VFIO_BITMAP_BYTES = 24;
