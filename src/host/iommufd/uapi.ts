/** Numbers of the kernel's interface (include/uapi/linux/iommufd.h and vfio.h, Linux 7.3), as far as the driver uses them. */

const TYPE = 0x3b; // ';', of iommufd and of VFIO alike
const VFIO_BASE = 100;

/** `_IO(type, number)`: neither direction nor size in the number. */
function io(number: number): number {
  return (TYPE << 8) | number;
}

/** Ioctl numbers by the name that errors and counts show. */
export const ioctl = {
  IOMMU_DESTROY: io(0x80),
  IOMMU_IOAS_ALLOC: io(0x81),
  IOMMU_IOAS_ALLOW_IOVAS: io(0x82),
  IOMMU_IOAS_COPY: io(0x83),
  IOMMU_IOAS_IOVA_RANGES: io(0x84),
  IOMMU_IOAS_MAP: io(0x85),
  IOMMU_IOAS_UNMAP: io(0x86),
  IOMMU_OPTION: io(0x87),
  IOMMU_VFIO_IOAS: io(0x88),
  IOMMU_HWPT_ALLOC: io(0x89),
  IOMMU_GET_HW_INFO: io(0x8a),
  IOMMU_HWPT_SET_DIRTY_TRACKING: io(0x8b),
  IOMMU_HWPT_GET_DIRTY_BITMAP: io(0x8c),
  IOMMU_HWPT_INVALIDATE: io(0x8d),
  IOMMU_FAULT_QUEUE_ALLOC: io(0x8e),
  IOMMU_IOAS_MAP_FILE: io(0x8f),
  IOMMU_VIOMMU_ALLOC: io(0x90),
  IOMMU_VDEVICE_ALLOC: io(0x91),
  IOMMU_IOAS_CHANGE_PROCESS: io(0x92),
  IOMMU_VEVENTQ_ALLOC: io(0x93),
  IOMMU_HW_QUEUE_ALLOC: io(0x94),
  VFIO_DEVICE_BIND_IOMMUFD: io(VFIO_BASE + 18),
  VFIO_DEVICE_ATTACH_IOMMUFD_PT: io(VFIO_BASE + 19),
  VFIO_DEVICE_DETACH_IOMMUFD_PT: io(VFIO_BASE + 20),
} as const;

export type IoctlName = keyof typeof ioctl;

/** enum iommufd_ioas_map_flags */
export const MAP_FIXED_IOVA = 1;
export const MAP_WRITEABLE = 2;
export const MAP_READABLE = 4;
