import type { AddressSpace, PfnRange, RunVisitor, TableReader } from '../../src/target/target.ts';

/** Pages of the toy: small, so that random operations meet. */
export const TOY_PAGES = 64;

interface ToyPage {
  readonly gpa: number;
  readonly permission: number;
}

/** An address space of 64 pages that a test changes page by page: the smallest thing that a path can serve. */
export class ToySpace implements AddressSpace {
  readonly name = 'toy';
  readonly owner: 'target' | 'guest';
  readonly announced: boolean = true;
  readonly granuleLg2 = 12;
  readonly apertures: readonly PfnRange[];
  pages: readonly (ToyPage | null)[] = Array.from({ length: TOY_PAGES }, () => null);
  readonly base: number;
  /** Pages that one enumeration looks at. */
  reach = TOY_PAGES;

  constructor(owner: 'target' | 'guest', base = 0x1000) {
    this.owner = owner;
    this.base = base;
    this.apertures = [{ first: base, last: base + TOY_PAGES - 1 }];
  }

  /** Maps [from, from + count) to guest pages from `gpa` on; permission 0 unmaps. */
  set(from: number, count: number, gpa: number, permission: number): void {
    this.pages = this.pages.map((page, i) => {
      if (i < from || i >= from + count) return page;
      return permission === 0 ? null : { gpa: gpa + i - from, permission };
    });
  }

  enumerate(first: number, last: number, visit: RunVisitor): number {
    let start = 0;
    const from = Math.max(first - this.base, 0);
    const stop = Math.min(last, this.base + from + this.reach - 1);
    const end = Math.min(stop + 1 - this.base, TOY_PAGES);
    for (let i = from; i < end; i = start) {
      start = i + 1;
      const page = this.pages[i];
      if (page === null) continue;
      while (start < end && this.#continues(page, i, start)) start++;
      if (!visit(this.base + i, page.gpa, start - i, page.permission)) return this.base + start;
    }
    return stop + 1;
  }

  #continues(page: ToyPage, at: number, next: number): boolean {
    const other = this.pages[next];
    return other !== null && other.gpa === page.gpa + next - at && other.permission === page.permission;
  }
}

/** One whose guest announces nothing: a table of 4 entries of 8 bytes, each for 16 pages of IOVA, at byte `at` of guest memory. */
export class TableSpace extends ToySpace {
  override readonly announced = false;
  readonly tellsTables = true;
  at = 0x5000;
  /** Reads nothing there any more. */
  isGone = false;

  override enumerate(first: number, last: number, visit: RunVisitor, told?: TableReader | null): number {
    if (!this.isGone) told?.(this.at, 32, 4, this.base, this.base + 63);
    return super.enumerate(first, last, visit);
  }
}
