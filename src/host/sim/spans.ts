/** Closed range of addresses or page frame numbers. */
export interface Span<K extends number | bigint> {
  readonly first: K;
  readonly last: K;
}

/** Disjoint spans, ascending: what the simulated kernel keeps its areas, mappings and memory in. Not for hot paths of the library. */
export class SpanList<K extends number | bigint, T extends Span<K>> {
  #items: T[] = [];

  get size(): number {
    return this.#items.length;
  }

  [Symbol.iterator](): Iterator<T> {
    return this.#items.values();
  }

  /** Index of the first span that ends at `key` or behind it. */
  #search(key: K): number {
    let low = 0;
    let high = this.#items.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (this.#items[middle].last < key) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  /** The first span that has anything in [first, last]. */
  firstIn(first: K, last: K): T | undefined {
    const span = this.#items[this.#search(first)];
    return span !== undefined && span.first <= last ? span : undefined;
  }

  at(key: K): T | undefined {
    return this.firstIn(key, key);
  }

  /** @throws RangeError when it overlaps: the caller has not looked. */
  insert(span: T): void {
    const index = this.#search(span.first);
    const next = this.#items[index];
    if (next !== undefined && next.first <= span.last) throw new RangeError(`SpanList: [${span.first}, ${span.last}] overlaps`);
    if (next === undefined) this.#items.push(span);
    else this.#items.splice(index, 0, span);
  }

  remove(span: T): void {
    const index = this.#search(span.first);
    if (this.#items[index] !== span) throw new RangeError(`SpanList: [${span.first}, ${span.last}] is not in it`);
    this.#items.splice(index, 1);
  }

  clear(): void {
    this.#items = [];
  }
}
