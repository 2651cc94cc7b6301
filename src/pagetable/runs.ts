import type { TableVisitor } from './page-table.ts';

/** Merges what an enumeration finds, in ascending order, into runs that cannot be merged further. */
export class Runs {
  /** First page after the run that was handed out last; -1 before. */
  visitedEnd = -1;
  readonly #visit: TableVisitor;
  #iova = 0;
  #output = 0;
  #pages = 0;
  #permission = 0;

  constructor(visit: TableVisitor) {
    this.#visit = visit;
  }

  /** Adds pages after all that were added before. False: the visitor wants no more. */
  add(iova: number, output: number, pages: number, permission: number): boolean {
    const held = this.#pages;
    if (held > 0 && this.#iova + held === iova && this.#output + held === output && this.#permission === permission) {
      this.#pages = held + pages;
      return true;
    }
    if (!this.flush()) return false;
    this.#iova = iova;
    this.#output = output;
    this.#pages = pages;
    this.#permission = permission;
    return true;
  }

  /** Hands out the run that is held, if any. False: the visitor wants no more. */
  flush(): boolean {
    const pages = this.#pages;
    if (pages === 0) return true;
    this.#pages = 0;
    this.visitedEnd = this.#iova + pages;
    return this.#visit(this.#iova, this.#output, pages, this.#permission);
  }
}
