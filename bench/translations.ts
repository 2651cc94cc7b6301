import { READ, READ_WRITE } from '../src/memory/access.ts';
import type { PageTable } from '../src/pagetable/page-table.ts';
import { NO_PASID, type Target } from '../src/target/target.ts';
import { Random } from './random.ts';
import type { Work } from './row.ts';

/** Pages that are mapped, and what the first of them leads to; bench/baseline/order.h has the same. */
export const PAGES = 1 << 14;
export const FIRST_PAGE = 0x20_0000;

/** The page that a page leads to: its neighbours' lie elsewhere, so that each needs an entry of its own. */
export function outputOf(page: number): number {
  return FIRST_PAGE + (page ^ 0x155);
}

/** Maps all pages, from 4 GiB times `base` on. */
export function mapPages(table: PageTable, base: number): void {
  for (let page = 0; page < PAGES; page++) table.map(base * 2 ** 20 + page, outputOf(page), 1, READ_WRITE);
}

/** An endpoint reads pages in a random order. A process has one target: its calls have one receiver, as a device's have. */
export class Translations implements Work {
  readonly operations: number;
  readonly #target: Target;
  readonly #endpoint: number;
  readonly #base: number;
  readonly #order: Int32Array;
  #at = 0;

  /** `base`: upper half of the addresses. */
  constructor(target: Target, endpoint: number, base: number, operations = 1 << 13) {
    const random = new Random();
    this.operations = operations;
    this.#target = target;
    this.#endpoint = endpoint;
    this.#base = base;
    this.#order = Int32Array.from({ length: PAGES }, () => random.next() & (PAGES - 1));
    const lg2 = target.translate(endpoint, NO_PASID, base, 0, READ);
    if (lg2 < 0) throw new Error(`${target.name} bench: the endpoint is not translated (${lg2})`);
  }

  batch(): number {
    const target = this.#target;
    const endpoint = this.#endpoint;
    const base = this.#base;
    const { translated } = target;
    const order = this.#order;
    // Imported ones are loaded and checked at each use.
    const pasid = NO_PASID;
    const access = READ;
    const end = this.#at + this.operations;
    let sum = 0;
    for (let i = this.#at; i < end; i++) {
      const lg2 = target.translate(endpoint, pasid, base, order[i] << 12, access);
      sum = (((sum + lg2) | 0) + ((translated[0] + translated[1]) | 0)) | 0;
    }
    this.#at = end === order.length ? 0 : end;
    return sum;
  }
}
