import { Struct } from '../structs.ts';

/** Structs of include/uapi/linux/iommufd.h, Linux 7.3, field for field; `reserved` stands for the header's `__reserved`. */

export const iommuDestroy = new Struct({ size: 'u32', id: 'u32' });
export const iommuIoasAlloc = new Struct({ size: 'u32', flags: 'u32', out_ioas_id: 'u32' });
export const iommuIovaRange = new Struct({ start: 'u64', last: 'u64' });
export const iommuIoasIovaRanges = new Struct({
  size: 'u32',
  ioas_id: 'u32',
  num_iovas: 'u32',
  reserved: 'u32',
  allowed_iovas: 'u64',
  out_iova_alignment: 'u64',
});
export const iommuIoasAllowIovas = new Struct({ size: 'u32', ioas_id: 'u32', num_iovas: 'u32', reserved: 'u32', allowed_iovas: 'u64' });
export const iommuIoasMap = new Struct({
  size: 'u32',
  flags: 'u32',
  ioas_id: 'u32',
  reserved: 'u32',
  user_va: 'u64',
  length: 'u64',
  iova: 'u64',
});
export const iommuIoasMapFile = new Struct({
  size: 'u32',
  flags: 'u32',
  ioas_id: 'u32',
  fd: 's32',
  start: 'u64',
  length: 'u64',
  iova: 'u64',
});
export const iommuIoasNoiommuGetPa = new Struct({
  size: 'u32',
  flags: 'u32',
  ioas_id: 'u32',
  reserved: 'u32',
  iova: 'u64',
  length: 'u64',
  out_phys: 'u64',
});
export const iommuIoasCopy = new Struct({
  size: 'u32',
  flags: 'u32',
  dst_ioas_id: 'u32',
  src_ioas_id: 'u32',
  length: 'u64',
  dst_iova: 'u64',
  src_iova: 'u64',
});
export const iommuIoasUnmap = new Struct({ size: 'u32', ioas_id: 'u32', iova: 'u64', length: 'u64' });
export const iommuOption = new Struct({ size: 'u32', option_id: 'u32', op: 'u16', reserved: 'u16', object_id: 'u32', val64: 'u64' });
export const iommuHwptAlloc = new Struct({
  size: 'u32',
  flags: 'u32',
  dev_id: 'u32',
  pt_id: 'u32',
  out_hwpt_id: 'u32',
  reserved: 'u32',
  data_type: 'u32',
  data_len: 'u32',
  data_uptr: 'u64',
  fault_id: 'u32',
  reserved2: 'u32',
});
export const iommuHwInfo = new Struct({
  size: 'u32',
  flags: 'u32',
  dev_id: 'u32',
  data_len: 'u32',
  data_uptr: 'u64',
  data_type: 'u32',
  out_max_pasid_log2: 'u8',
  reserved0: 'u8',
  reserved1: 'u8',
  reserved2: 'u8',
  out_capabilities: 'u64',
});
export const iommuHwptInvalidate = new Struct({
  size: 'u32',
  hwpt_id: 'u32',
  data_uptr: 'u64',
  data_type: 'u32',
  entry_len: 'u32',
  entry_num: 'u32',
  reserved: 'u32',
});
export const iommuHwptSetDirtyTracking = new Struct({ size: 'u32', flags: 'u32', hwpt_id: 'u32', reserved: 'u32' });
export const iommuHwptGetDirtyBitmap = new Struct({
  size: 'u32',
  hwpt_id: 'u32',
  flags: 'u32',
  reserved: 'u32',
  iova: 'u64',
  length: 'u64',
  page_size: 'u64',
  data: 'u64',
});
export const iommuFaultAlloc = new Struct({ size: 'u32', flags: 'u32', out_fault_id: 'u32', out_fault_fd: 'u32' });
export const iommuHwptPgfault = new Struct({
  flags: 'u32',
  dev_id: 'u32',
  pasid: 'u32',
  grpid: 'u32',
  perm: 'u32',
  reserved: 'u32',
  addr: 'u64',
  length: 'u32',
  cookie: 'u32',
});
export const iommuHwptPageResponse = new Struct({ cookie: 'u32', code: 'u32' });
export const iommuViommuAlloc = new Struct({
  size: 'u32',
  flags: 'u32',
  type: 'u32',
  dev_id: 'u32',
  hwpt_id: 'u32',
  out_viommu_id: 'u32',
  data_len: 'u32',
  reserved: 'u32',
  data_uptr: 'u64',
});
export const iommuVdeviceAlloc = new Struct({ size: 'u32', viommu_id: 'u32', dev_id: 'u32', out_vdevice_id: 'u32', virt_id: 'u64' });
export const iommuVeventqAlloc = new Struct({
  size: 'u32',
  flags: 'u32',
  viommu_id: 'u32',
  type: 'u32',
  veventq_depth: 'u32',
  out_veventq_id: 'u32',
  out_veventq_fd: 'u32',
  reserved: 'u32',
});
export const iommufdVeventHeader = new Struct({ flags: 'u32', sequence: 'u32' });
export const iommuHwQueueAlloc = new Struct({
  size: 'u32',
  flags: 'u32',
  viommu_id: 'u32',
  type: 'u32',
  index: 'u32',
  out_hw_queue_id: 'u32',
  nesting_parent_iova: 'u64',
  length: 'u64',
});
export const iommuIoasChangeProcess = new Struct({ size: 'u32', reserved: 'u32' });
export const iommuVfioIoas = new Struct({ size: 'u32', ioas_id: 'u32', op: 'u16', reserved: 'u16' });

/** Structs of include/uapi/linux/vfio.h that bring a device to an iommufd. */

export const vfioBind = new Struct({ argsz: 'u32', flags: 'u32', iommufd: 's32', out_devid: 'u32', token_uuid_ptr: 'u64' });
export const vfioAttach = new Struct({ argsz: 'u32', flags: 'u32', pt_id: 'u32', pasid: 'u32' });
export const vfioDetach = new Struct({ argsz: 'u32', flags: 'u32', pasid: 'u32' });
