import { errno } from '../../errno.ts';
import { handler, type IoctlHandler } from './context.ts';
import { IOVA_MAX } from './iova-ranges.ts';
import { DIRTY_TRACKING, PagingHwpt } from './page-tables.ts';
import { iommuHwptGetDirtyBitmap, iommuHwptSetDirtyTracking } from './structs.ts';

/** Dirty tracking of page tables that were allocated with DIRTY_TRACKING. */

const ENABLE = 1;
const NO_CLEAR = 1;

const setTracking = handler('IOMMU_HWPT_SET_DIRTY_TRACKING', iommuHwptSetDirtyTracking, 'reserved', (context, command) => {
  const { flags, hwpt_id } = command.in;
  if ((flags & ~ENABLE) !== 0) return -errno.EOPNOTSUPP;
  const hwpt = context.get(hwpt_id, PagingHwpt);
  if (hwpt === undefined) return -errno.ENOENT;
  if ((hwpt.flags & DIRTY_TRACKING) === 0) return -errno.EOPNOTSUPP;
  const enable = (flags & ENABLE) !== 0;
  if (enable) hwpt.domain.clearDirty();
  hwpt.domain.tracking = enable;
  return 0;
});

/** iommufd_check_iova_range */
function checkRange(hwpt: PagingHwpt, iova: bigint, length: bigint, pageSize: bigint): number {
  const end = iova + length;
  if (length === 0n) return -errno.EINVAL;
  if (end - 1n > IOVA_MAX) return -errno.EOVERFLOW;
  const { alignment } = hwpt.ioas.table;
  if (iova % alignment !== 0n || end % alignment !== 0n || pageSize === 0n) return -errno.EINVAL;
  return (iova & (pageSize - 1n)) !== 0n || (end & (pageSize - 1n)) !== 0n ? -errno.EINVAL : 0;
}

const getBitmap = handler('IOMMU_HWPT_GET_DIRTY_BITMAP', iommuHwptGetDirtyBitmap, 'data', (context, command) => {
  const { hwpt_id, flags, reserved, iova, length, page_size, data } = command.in;
  if ((flags & ~NO_CLEAR) !== 0 || reserved !== 0) return -errno.EOPNOTSUPP;
  const hwpt = context.get(hwpt_id, PagingHwpt);
  if (hwpt === undefined) return -errno.ENOENT;
  const refused = checkRange(hwpt, iova, length, page_size);
  if (refused < 0) return refused;
  if ((hwpt.flags & DIRTY_TRACKING) === 0) return -errno.EOPNOTSUPP;
  const bits = length / page_size;
  // Neither a hole nor tracking that is off is an error: there is nothing to tell then, behind the hole or at all.
  if (!hwpt.domain.tracking) return 0;
  const mapped = hwpt.ioas.table.mappedFrom(iova, iova + length - 1n);
  if (mapped < iova) return 0;
  const granule = BigInt(hwpt.domain.granule);
  const bitOf = (page: number) => Number((BigInt(page) * granule - iova) / page_size);
  // The bitmap is looked at only when there is something to tell, which is lost where it cannot be written (iova_bitmap_set).
  const bitmap = context.kernel.process.writableView(data, Number((bits + 63n) / 64n) * 8);
  hwpt.domain.readDirty(Number(iova / granule), Number(mapped / granule), (flags & NO_CLEAR) === 0, (first, last) => {
    if (bitmap !== null) for (let bit = bitOf(first); bit <= bitOf(last); bit++) bitmap[bit >> 3] |= 1 << (bit & 7);
  });
  return 0;
});

export const dirtyHandlers: readonly IoctlHandler[] = [getBitmap, setTracking];
