import type { AddressSpace } from '../../target/target.ts';

/**
 * The host calls that QEMU 11.1 makes for a function that it passes through: a map for each page that a refresh finds, an unmap of
 * each aligned power of two of what a refresh finds gone (s390_pci_update_iotlb, s390_pci_batch_unmap). By function.
 */
export class ZpciPeer {
  hostCalls = 0;
  readonly #mapped = new Map<number, Map<number, string>>();

  refresh(fid: number, space: AddressSpace, first: number, last: number): void {
    const mapped = this.#mapped.get(fid) ?? new Map<number, string>();
    this.#mapped.set(fid, mapped);
    let next = first;
    const pages = new Map<number, string>();
    space.enumerate(first, last, (iova, gpa, count, permission) => {
      if (iova > next) this.hostCalls += alignedPieces(next, iova - next);
      next = iova + count;
      for (let i = 0; i < count; i++) pages.set(iova + i, `${gpa + i} ${permission}`);
      return true;
    });
    if (next <= last) this.hostCalls += alignedPieces(next, last - next + 1);
    for (const page of [...mapped.keys()]) if (page >= first && page <= last && !pages.has(page)) mapped.delete(page);
    for (const [page, what] of pages) {
      const before = mapped.get(page);
      if (before !== what) this.hostCalls += before === undefined ? 1 : 2;
      mapped.set(page, what);
    }
  }

  /** Its translations are unregistered: one unmap of all, or none where nothing is mapped. */
  forget(fid: number): void {
    if (this.#mapped.delete(fid)) this.hostCalls++;
  }
}

function alignedPieces(first: number, pages: number): number {
  let pieces = 0;
  for (let at = first; at < first + pages; pieces++) {
    let size = 1;
    while (at % (2 * size) === 0 && at + 2 * size <= first + pages) size *= 2;
    at += size;
  }
  return pieces;
}
