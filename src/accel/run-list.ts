/** Initial room; doubled when it runs out. */
const INITIAL = 64;
/** Room that is kept for the next time. */
const KEPT = 1 << 16;

/** Runs (first page, where it leads, pages, permission) in typed arrays that are reused: filling one allocates only when it has to grow. */
export class RunList {
  iova: Float64Array;
  /** Guest page. */
  gpa: Float64Array;
  pages: Float64Array;
  permission: Int32Array;
  length: number;
  /** Runs that it may hold. */
  readonly limit: number;

  constructor(limit: number) {
    this.iova = new Float64Array(INITIAL);
    this.gpa = new Float64Array(INITIAL);
    this.pages = new Float64Array(INITIAL);
    this.permission = new Int32Array(INITIAL);
    this.length = 0;
    this.limit = limit;
  }

  /** false: the limit is reached and nothing was added. */
  push(iova: number, gpa: number, pages: number, permission: number): boolean {
    const at = this.length;
    if (at === this.iova.length && !this.#grow()) return false;
    this.iova[at] = iova;
    this.gpa[at] = gpa;
    this.pages[at] = pages;
    this.permission[at] = permission;
    this.length = at + 1;
    return true;
  }

  /** Ends what it holds, which ascends, before a page. */
  cut(page: number): void {
    while (this.length > 0 && this.iova[this.length - 1] >= page) this.length--;
    const last = this.length - 1;
    if (last >= 0) this.pages[last] = Math.min(this.pages[last], page - this.iova[last]);
  }

  clear(): void {
    this.length = 0;
    if (this.iova.length <= KEPT) return;
    this.iova = new Float64Array(INITIAL);
    this.gpa = new Float64Array(INITIAL);
    this.pages = new Float64Array(INITIAL);
    this.permission = new Int32Array(INITIAL);
  }

  #grow(): boolean {
    const room = Math.min(this.iova.length * 2, this.limit);
    if (room <= this.iova.length) return false;
    this.iova = grown(this.iova, room);
    this.gpa = grown(this.gpa, room);
    this.pages = grown(this.pages, room);
    const permission = new Int32Array(room);
    permission.set(this.permission);
    this.permission = permission;
    return true;
  }
}

function grown(from: Float64Array, room: number): Float64Array {
  const to = new Float64Array(room);
  to.set(from);
  return to;
}
