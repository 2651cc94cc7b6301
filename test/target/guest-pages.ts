import type { GuestMemory } from '../../src/memory/guest-memory.ts';
import type { TableAllocator } from '../../src/pagetable/page-table.ts';

/** Pages [first, end) of guest RAM that a guest's driver has its tables in, zeroed; single pages come back as soon as they are free. */
export class GuestPages implements TableAllocator {
  readonly #memory: GuestMemory;
  readonly #free: number[] = [];
  #next: number;
  readonly #end: number;

  constructor(memory: GuestMemory, first: number, end: number) {
    this.#memory = memory;
    this.#next = first;
    this.#end = end;
  }

  /** As many pages, aligned to their number. */
  allocate(pages: number): number {
    let pfn = pages === 1 ? (this.#free.pop() ?? -1) : -1;
    if (pfn < 0) {
      pfn = Math.ceil(this.#next / pages) * pages;
      if (pfn + pages > this.#end) return -1;
      this.#next = pfn + pages;
    }
    for (let at = 0; at < pages * 4096; at += 8) this.#memory.store64(0, pfn * 4096 + at, 0, 0);
    return pfn;
  }

  free(pfn: number, pages: number): void {
    if (pages === 1) this.#free.push(pfn);
  }
}
