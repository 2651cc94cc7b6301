import { hostErrorOf } from '../errno.ts';
import type { DirtyTracking, DirtyVisitor, HostSpace } from '../host.ts';
import type { KernelPageTable } from './page-table.ts';

/** Pages that one call tells of at most, 128 KiB of bits; a call ends where no entry of 4 GiB or less is cut. */
const PAGES_AT_ONCE = 2 ** 20;

/**
 * What the page tables of one space remember. The kernel has no call that unmaps and tells: a write between the two calls, to a page that its guest is
 * just taking away, is not told.
 */
export class TablesDirtyTracking implements DirtyTracking {
  inexact: string | null = null;
  readonly #space: HostSpace;
  readonly #tables: () => readonly KernelPageTable[];

  constructor(space: HostSpace, tables: () => readonly KernelPageTable[]) {
    this.#space = space;
    this.#tables = tables;
  }

  read(first: number, pages: number, visit: DirtyVisitor): void {
    this.#read(first, pages, visit, false);
  }

  unmap(first: number, pages: number, visit: DirtyVisitor): number {
    this.#read(first, pages, visit, true);
    return this.#space.unmap(first, pages);
  }

  #read(first: number, pages: number, visit: DirtyVisitor, keep: boolean): void {
    if (this.inexact !== null) {
      visit(first, first + pages - 1);
      return;
    }
    for (let from = first; from < first + pages; ) {
      const end = Math.min(first + pages, (Math.floor(from / PAGES_AT_ONCE) + 1) * PAGES_AT_ONCE);
      try {
        for (const table of this.#tables()) table.readDirty(from, end - from, visit, { keep });
      } catch (error) {
        hostErrorOf(error);
        visit(from, end - 1);
      }
      from = end;
    }
  }
}
