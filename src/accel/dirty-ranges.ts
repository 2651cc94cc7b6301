/** Ranges remembered one by one; past that the two that lie closest become one. */
const LIMIT = 256;

/** Which pages may mean something else than the hardware has: disjoint closed ranges, sorted once they are asked for. */
export class DirtyRanges {
  readonly #first = new Float64Array(LIMIT + 1);
  readonly #last = new Float64Array(LIMIT + 1);
  #count = 0;
  #sorted = true;

  get count(): number {
    return this.#count;
  }

  first(index: number): number {
    return this.#first[index];
  }

  last(index: number): number {
    return this.#last[index];
  }

  add(first: number, last: number): void {
    const at = this.#count - 1;
    // The common case: the guest goes upward, or touches one page again.
    if (at >= 0 && first >= this.#first[at] && first <= this.#last[at] + 1) {
      if (last > this.#last[at]) this.#last[at] = last;
      return;
    }
    if (at >= 0 && first < this.#first[at]) this.#sorted = false;
    this.#first[at + 1] = first;
    this.#last[at + 1] = last;
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
    const first = this.#first;
    const last = this.#last;
    // Insertion sort: at most LIMIT ranges, nearly sorted as a rule, and nothing allocated.
    for (let i = 1; i < this.#count; i++) {
      const f = first[i];
      const l = last[i];
      let j = i - 1;
      for (; j >= 0 && first[j] > f; j--) {
        first[j + 1] = first[j];
        last[j + 1] = last[j];
      }
      first[j + 1] = f;
      last[j + 1] = l;
    }
    let kept = 0;
    for (let i = 1; i < this.#count; i++) {
      if (first[i] <= last[kept] + 1) last[kept] = Math.max(last[kept], last[i]);
      else {
        kept++;
        first[kept] = first[i];
        last[kept] = last[i];
      }
    }
    this.#count = kept + 1;
    this.#sorted = true;
  }

  #shrink(): void {
    this.normalize();
    if (this.#count <= LIMIT) return;
    let closest = 0;
    for (let i = 1; i + 1 < this.#count; i++) {
      if (this.#first[i + 1] - this.#last[i] < this.#first[closest + 1] - this.#last[closest]) closest = i;
    }
    this.#last[closest] = this.#last[closest + 1];
    this.#first.copyWithin(closest + 1, closest + 2, this.#count);
    this.#last.copyWithin(closest + 1, closest + 2, this.#count);
    this.#count--;
  }
}
