/** Layouts of include/uapi/linux/vfio.h, "Additional API for SPAPR TCE". All fields are 32 bits wide unless they say u64. */

/** struct vfio_iommu_spapr_tce_info: argsz, flags, dma32_window_start, dma32_window_size, ddw {pgsizes u64, max windows, levels}. */
export const TCE_INFO = { bytes: 32, flags: 4, dma32Start: 8, dma32Bytes: 12, pageSizes: 16, windowsMax: 24, levels: 28 } as const;
export const VFIO_IOMMU_SPAPR_INFO_DDW = 1;

/** struct vfio_iommu_spapr_register_memory: argsz, flags, vaddr u64, size u64. */
export const TCE_REGISTER = { bytes: 24, flags: 4, address: 8, size: 16 } as const;

/** struct vfio_iommu_spapr_tce_create: argsz, flags, page_shift, resv, window_size u64, levels, resv; out: start_addr u64. */
export const TCE_CREATE = { bytes: 40, flags: 4, pageShift: 8, windowSize: 16, levels: 24, startAddress: 32 } as const;

/** struct vfio_iommu_spapr_tce_remove: argsz, flags, start_addr u64. */
export const TCE_REMOVE = { bytes: 16, flags: 4, startAddress: 8 } as const;

/** struct vfio_eeh_pe_op up to `op`: argsz, flags, op. */
export const EEH_OP = { bytes: 12, flags: 4, op: 8 } as const;
export const VFIO_EEH_PE_GET_STATE = 4;
