import { PAGE_BYTES } from '../src/memory/address.ts';
import type { TableAllocator } from '../src/pagetable/page-table.ts';

const ZEROS = new Uint8Array(PAGE_BYTES);

/** Single pages [first, end) for tables: the next one, or the one freed last. `memory` is what they lie in, page 0 first. */
export class TablePages implements TableAllocator {
  readonly #bytes: Uint8Array;
  readonly #end: number;
  readonly #free: Int32Array;
  #next: number;
  #freed = 0;

  constructor(memory: Uint8Array, first: number, end: number) {
    this.#bytes = memory;
    this.#next = first;
    this.#end = end;
    this.#free = new Int32Array(end - first);
  }

  allocate(pages: number): number {
    if (pages !== 1) throw new RangeError(`TablePages: ${pages} pages at once`);
    const pfn = this.#freed > 0 ? this.#free[--this.#freed] : this.#next < this.#end ? this.#next++ : -1;
    // `fill` clears shared memory byte by byte.
    if (pfn >= 0) this.#bytes.set(ZEROS, pfn * PAGE_BYTES);
    return pfn;
  }

  free(pfn: number): void {
    this.#free[this.#freed++] = pfn;
  }
}
