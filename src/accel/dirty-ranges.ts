/** Ranges remembered one by one; past that the two that lie closest become one. */
const LIMIT = 256;
/** Room to begin with. A typed array of 64 bytes lies where its object does: most operations change one range, and there are three lists a space. */
const FEW = 4;

/** Which pages may mean something else than the hardware has: disjoint closed ranges, sorted once they are asked for. */
export class DirtyRanges {
  /** First and last page of each range in turn. */
  #pages = new Float64Array(2 * FEW);
  #count = 0;
  #sorted = true;

  get count(): number {
    return this.#count;
  }

  first(index: number): number {
    return this.#pages[2 * index];
  }

  last(index: number): number {
    return this.#pages[2 * index + 1];
  }

  add(first: number, last: number): void {
    let pages = this.#pages;
    const end = 2 * this.#count;
    // The common case: the guest goes upward, or touches one page again.
    if (end > 0 && first >= pages[end - 2] && first <= pages[end - 1] + 1) {
      if (last > pages[end - 1]) pages[end - 1] = last;
      return;
    }
    if (end > 0 && first < pages[end - 2]) this.#sorted = false;
    if (end === pages.length) pages = this.#grow();
    pages[end] = first;
    pages[end + 1] = last;
    this.#count++;
    if (this.#count > LIMIT) this.#shrink();
  }

  addAll(other: DirtyRanges): void {
    for (let i = 0; i < other.count; i++) this.add(other.first(i), other.last(i));
  }

  clear(): void {
    this.#count = 0;
    this.#sorted = true;
  }

  /** Sorts by first page and makes one of what overlaps or touches. */
  normalize(): void {
    if (this.#sorted) return;
    const pages = this.#pages;
    const end = 2 * this.#count;
    // Insertion sort: at most LIMIT ranges, nearly sorted as a rule, and nothing allocated.
    for (let i = 2; i < end; i += 2) {
      const first = pages[i];
      const last = pages[i + 1];
      let j = i - 2;
      for (; j >= 0 && pages[j] > first; j -= 2) {
        pages[j + 2] = pages[j];
        pages[j + 3] = pages[j + 1];
      }
      pages[j + 2] = first;
      pages[j + 3] = last;
    }
    let kept = 0;
    for (let i = 2; i < end; i += 2) {
      if (pages[i] <= pages[kept + 1] + 1) pages[kept + 1] = Math.max(pages[kept + 1], pages[i + 1]);
      else {
        kept += 2;
        pages[kept] = pages[i];
        pages[kept + 1] = pages[i + 1];
      }
    }
    this.#count = kept / 2 + 1;
    this.#sorted = true;
  }

  #grow(): Float64Array<ArrayBuffer> {
    const pages = new Float64Array(Math.min(4 * this.#count, 2 * (LIMIT + 1)));
    pages.set(this.#pages);
    this.#pages = pages;
    return pages;
  }

  #shrink(): void {
    this.normalize();
    if (this.#count <= LIMIT) return;
    const gap = (i: number) => this.first(i + 1) - this.last(i);
    let closest = 0;
    for (let i = 1; i + 1 < this.#count; i++) if (gap(i) < gap(closest)) closest = i;
    // The last page of one and the first of the next go.
    this.#pages.copyWithin(2 * closest + 1, 2 * closest + 3, 2 * this.#count);
    this.#count--;
  }
}
