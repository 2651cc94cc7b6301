/** lg2 of the pages of large leaves, ascending. */
const SIZES = [9, 18] as const;
/** Blocks remembered of one size; when there are more, any block may be a leaf. */
const BLOCKS = 1 << 16;

/**
 * Which blocks of an address space may be mapped by one large leaf, as far as somebody has seen: an invalidation that names one page
 * of it drops all of it (6.5.3.2), also where the leaf is gone by now.
 */
export class LargeLeaves {
  readonly #blocks = SIZES.map(() => new Set<number>());
  readonly #any = SIZES.map(() => false);

  /** A run was seen: every aligned block of it whose output is aligned may be one leaf. */
  note(iova: number, output: number, pages: number): void {
    SIZES.forEach((lg2, i) => {
      const size = 2 ** lg2;
      const blocks = this.#blocks[i];
      if (this.#any[i] || pages < size || (output - iova) % size !== 0) return;
      const end = Math.floor((iova + pages) / size);
      const first = Math.ceil(iova / size);
      if (blocks.size + end - first > BLOCKS) {
        this.#any[i] = true;
        blocks.clear();
        return;
      }
      for (let block = first; block < end; block++) blocks.add(block);
    });
  }

  /** The first page of the leaf that may have held the page. */
  firstOf(page: number): number {
    const size = this.#sizeAt(page);
    return Math.floor(page / size) * size;
  }

  /** The last page of it. */
  lastOf(page: number): number {
    const size = this.#sizeAt(page);
    return Math.floor(page / size) * size + size - 1;
  }

  #sizeAt(page: number): number {
    for (let i = SIZES.length - 1; i >= 0; i--) {
      const size = 2 ** SIZES[i];
      if (this.#any[i] || this.#blocks[i].has(Math.floor(page / size))) return size;
    }
    return 1;
  }
}
