import { type Command, Struct } from '../structs.ts';

/** A decoded call with this struct. */
export type CommandOf<S> = S extends Struct<infer F> ? Command<F> : never;

/** Layouts of include/uapi/linux/vfio.h for containers, groups, and the two IOMMU drivers. */

export const groupStatus = new Struct({ argsz: 'u32', flags: 'u32' });

/** vfio_iommu_type1_info; its capability chain follows it. */
export const type1Info = new Struct({ argsz: 'u32', flags: 'u32', iova_pgsizes: 'u64', cap_offset: 'u32', pad: 'u32' });
/** vfio_iommu_type1_info_cap_migration, its header included. */
export const capMigration = new Struct({
  id: 'u16',
  version: 'u16',
  next: 'u32',
  flags: 'u32',
  pad: 'u32',
  pgsize_bitmap: 'u64',
  max_dirty_bitmap_size: 'u64',
});
/** vfio_iommu_type1_info_dma_avail, rounded up to 8 bytes as the kernel does in a chain. */
export const capDmaAvail = new Struct({ id: 'u16', version: 'u16', next: 'u32', avail: 'u32', pad: 'u32' });
/** vfio_iommu_type1_info_cap_iova_range, up to its array. */
export const capIovaRange = new Struct({ id: 'u16', version: 'u16', next: 'u32', nr_iovas: 'u32', reserved: 'u32' });
export const iovaRange = new Struct({ start: 'u64', end: 'u64' });

export const dmaMap = new Struct({ argsz: 'u32', flags: 'u32', vaddr: 'u64', iova: 'u64', size: 'u64' });
/** With the vfio_bitmap that a flag asks for at its end. */
export const dmaUnmap = new Struct({
  argsz: 'u32',
  flags: 'u32',
  iova: 'u64',
  size: 'u64',
  bitmap_pgsize: 'u64',
  bitmap_size: 'u64',
  bitmap_data: 'u64',
});
/** vfio_iommu_type1_dirty_bitmap with vfio_iommu_type1_dirty_bitmap_get behind it. */
export const dirtyBitmap = new Struct({
  argsz: 'u32',
  flags: 'u32',
  iova: 'u64',
  size: 'u64',
  bitmap_pgsize: 'u64',
  bitmap_size: 'u64',
  bitmap_data: 'u64',
});

export const tceInfo = new Struct({
  argsz: 'u32',
  flags: 'u32',
  dma32_window_start: 'u32',
  dma32_window_size: 'u32',
  pgsizes: 'u64',
  max_dynamic_windows_supported: 'u32',
  levels: 'u32',
});
export const registerMemory = new Struct({ argsz: 'u32', flags: 'u32', vaddr: 'u64', size: 'u64' });
export const tceCreate = new Struct({
  argsz: 'u32',
  flags: 'u32',
  page_shift: 'u32',
  resv1: 'u32',
  window_size: 'u64',
  levels: 'u32',
  resv2: 'u32',
  start_addr: 'u64',
});
export const tceRemove = new Struct({ argsz: 'u32', flags: 'u32', start_addr: 'u64' });
export const eehOp = new Struct({ argsz: 'u32', flags: 'u32', op: 'u32' });
