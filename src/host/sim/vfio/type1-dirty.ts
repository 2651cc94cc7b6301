import { errno } from '../../errno.ts';
import type { ProcessMemory } from '../memory.ts';
import { dataViewOf } from '../structs.ts';

/** Flags of struct vfio_iommu_type1_dirty_bitmap. */
export const START = 1;
export const STOP = 2;
export const GET_BITMAP = 4;

/** DIRTY_BITMAP_SIZE_MAX: a bit for each of 2^31 - 1 pages, in whole words. */
export const BITMAP_BYTES_MAX = 1n << 28n;

/** No memory of a process ends above it (TASK_SIZE_MAX). */
const USER_MAX = 2n ** 47n - 4096n;

/** access_ok and verify_bitmap_size: 0 or -EINVAL. */
export function checkBitmap(
  size: bigint,
  pageBytes: bigint,
  { at, bytes: bitmapBytes }: { readonly at: bigint; readonly bytes: bigint },
): number {
  if (at + bitmapBytes > USER_MAX) return -errno.EINVAL;
  const pages = pageBytes === 0n ? 0n : size / (pageBytes & -pageBytes);
  const wanted = 8n * ((pages + 63n) / 64n);
  return pages === 0n || bitmapBytes === 0n || bitmapBytes > BITMAP_BYTES_MAX || bitmapBytes < wanted ? -errno.EINVAL : 0;
}

const WORD = 64n;

/** The kernel's own bitmap of a mapping (vfio_dma.bitmap), which lives while pages are tracked. */
export class DmaBitmap {
  readonly #words: BigUint64Array<ArrayBuffer>;
  readonly #pages: bigint;

  /** A word more than the pages want, to be shifted into. */
  constructor(pages: bigint) {
    this.#pages = pages;
    this.#words = new BigUint64Array(Number((pages + WORD - 1n) / WORD) + 1);
  }

  #fill(value: 0n | 1n): void {
    const whole = Number(this.#pages / WORD);
    const mask = (1n << (this.#pages % WORD)) - 1n;
    this.#words.fill(value === 1n ? (1n << WORD) - 1n : 0n, 0, whole);
    if (value === 1n) this.#words[whole] |= mask;
    else this.#words[whole] &= ~mask;
  }

  /**
   * update_user_bitmap: writes whole words of the user's bitmap, of which the mapping is from bit `first` on. All its pages count as dirty. Where it does
   * not begin at a word, the kernel shifts its bitmap in place, with what an earlier answer has left behind the pages, and keeps the user's first word.
   * False: EFAULT.
   */
  tell(memory: ProcessMemory, address: bigint, first: bigint): boolean {
    this.#fill(1n);
    const shift = first % WORD;
    const count = Number((this.#pages + shift + WORD - 1n) / WORD);
    const at = address + (first / WORD) * 8n;
    if (shift > 0n) {
      for (let word = count - 1; word >= 0; word--) {
        const lower = word > 0 ? this.#words[word - 1] >> (WORD - shift) : 0n;
        this.#words[word] = (this.#words[word] << shift) | lower;
      }
      const there = memory.view(at, 8);
      if (there === null) return false;
      this.#words[0] |= dataViewOf(there).getBigUint64(0, true);
    }
    return memory.copyOut(at, new Uint8Array(this.#words.buffer, 0, count * 8));
  }

  /** What is pinned by nobody but the IOMMU is forgotten when it has been told. */
  clear(): void {
    this.#fill(0n);
  }
}
