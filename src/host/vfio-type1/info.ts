import { pfnOf } from '../../memory/address.ts';
import type { IovaRange } from '../host.ts';

/** What VFIO_IOMMU_GET_INFO says of a container (include/uapi/linux/vfio.h). */
export interface Type1Info {
  /** Bitmap of page sizes that mappings can have; the lowest is their alignment. */
  readonly pageSizes: bigint;
  /** Where mappings are possible. */
  readonly ranges: readonly IovaRange[];
  /** Mappings that can still be added; Infinity when the kernel does not say. */
  readonly mappingsLeft: number;
  /** Dirty tracking, or null when the kernel has none. */
  readonly dirty: { readonly pageSizes: bigint; readonly bitmapBytesMax: bigint } | null;
}

// struct vfio_iommu_type1_info
const FLAGS = 4;
const FLAG_PGSIZES = 1;
const FLAG_CAPS = 2;
const IOVA_PGSIZES = 8;
const CAP_OFFSET = 16;
export const VFIO_IOMMU_TYPE1_INFO_BYTES = 24;

// struct vfio_info_cap_header: id u16, version u16, offset of the next one u32 (0: the last)
const CAP_IOVA_RANGE = 1;
const CAP_MIGRATION = 2;
const CAP_DMA_AVAIL = 3;
/** More than the chain can have: a kernel that loops is not followed. */
const CAPS_MAX = 64;

/** Decodes the struct and its capability chain; capabilities that are not known are passed over. */
export function decodeInfo(view: DataView): Type1Info {
  const flags = view.getUint32(FLAGS, true);
  const pageSizes = (flags & FLAG_PGSIZES) !== 0 ? view.getBigUint64(IOVA_PGSIZES, true) : 0x1000n;
  let info: Type1Info = { pageSizes, ranges: [], mappingsLeft: Number.POSITIVE_INFINITY, dirty: null };
  let at = (flags & FLAG_CAPS) !== 0 ? view.getUint32(CAP_OFFSET, true) : 0;
  for (let seen = 0; at !== 0 && seen < CAPS_MAX; seen++) {
    info = { ...info, ...decodeCapability(view, at) };
    at = view.getUint32(at + 4, true);
  }
  return info;
}

function decodeCapability(view: DataView, at: number): Partial<Type1Info> {
  switch (view.getUint16(at, true)) {
    case CAP_IOVA_RANGE: {
      // struct vfio_iommu_type1_info_cap_iova_range: nr_iovas u32, reserved u32, then start and end, u64 each
      const ranges = Array.from({ length: view.getUint32(at + 8, true) }, (_, index) => ({
        first: pfnOf(view.getBigUint64(at + 16 + 16 * index, true) + 0xfffn),
        last: pfnOf(view.getBigUint64(at + 24 + 16 * index, true) - 0xfffn),
      }));
      return { ranges };
    }
    case CAP_MIGRATION:
      // struct vfio_iommu_type1_info_cap_migration: flags u32, pgsize_bitmap u64, max_dirty_bitmap_size u64
      return { dirty: { pageSizes: view.getBigUint64(at + 16, true), bitmapBytesMax: view.getBigUint64(at + 24, true) } };
    case CAP_DMA_AVAIL:
      return { mappingsLeft: view.getUint32(at + 8, true) };
    default:
      return {};
  }
}
