import { errno } from '../../errno.ts';
import type { ProcessMemory } from '../memory.ts';
import type { Span } from '../spans.ts';

/** Flags of struct vfio_iommu_type1_dirty_bitmap. */
export const START = 1;
export const STOP = 2;
export const GET_BITMAP = 4;

/** DIRTY_BITMAP_SIZE_MAX: a bit for each of 2^31 - 1 pages, in whole words. */
export const BITMAP_BYTES_MAX = 1n << 28n;

/** verify_bitmap_size: 0 or -EINVAL. */
export function checkBitmap(size: bigint, pageBytes: bigint, bitmapBytes: bigint): number {
  const pages = pageBytes === 0n ? 0n : size / (pageBytes & -pageBytes);
  const wanted = 8n * ((pages + 63n) / 64n);
  return pages === 0n || bitmapBytes === 0n || bitmapBytes > BITMAP_BYTES_MAX || bitmapBytes < wanted ? -errno.EINVAL : 0;
}

/**
 * update_user_bitmap: writes whole 64-bit words of a bitmap of the process that begins at `iova`. Bits of the first word below the
 * mapping stay, bits of the last one behind it are cleared, and words without a mapping are not touched. False: EFAULT.
 */
export function writeBitmap(
  memory: ProcessMemory,
  address: bigint,
  iova: bigint,
  pageBytes: bigint,
  mappings: readonly Span<bigint>[],
): boolean {
  for (const { first, last } of mappings) {
    const begin = Number((first - iova) / pageBytes);
    const end = Number((last - iova) / pageBytes);
    const word = Math.floor(begin / 64);
    const view = memory.view(address + BigInt(8 * word), 8 * (Math.floor(end / 64) - word + 1));
    if (view === null) return false;
    const from = begin - 64 * word;
    for (let bit = from; bit < 8 * view.length; bit++) {
      if (bit <= end - 64 * word) view[bit >>> 3] |= 1 << (bit & 7);
      else view[bit >>> 3] &= ~(1 << (bit & 7));
    }
  }
  return true;
}
