/** Closed range of addresses or page frame numbers. */
export interface Span<K extends number | bigint> {
  readonly first: K;
  readonly last: K;
}

/** A full chunk is split. Insertion and removal move no more than this many spans, and as many chunks as there are. */
const CHUNK = 512;

/**
 * Disjoint spans, ascending: what the simulated kernel keeps its areas, mappings and memory in. Not for hot paths of the library.
 * In chunks: in one array, to map or unmap many areas took time that grew with the square of their number.
 */
export class SpanList<K extends number | bigint, T extends Span<K>> {
  /** None is empty. */
  #chunks: T[][] = [];
  #size = 0;

  get size(): number {
    return this.#size;
  }

  *[Symbol.iterator](): Iterator<T> {
    for (const chunk of this.#chunks) yield* chunk;
  }

  /** Index of the first chunk that has a span that ends at `key` or behind it. */
  #chunkOf(key: K): number {
    return search(this.#chunks.length, (index) => lastOf(this.#chunks[index]).last < key);
  }

  /** The first span that has anything in [first, last]. */
  firstIn(first: K, last: K): T | undefined {
    const chunk = this.#chunks[this.#chunkOf(first)];
    const span = chunk?.[indexIn(chunk, first)];
    return span !== undefined && span.first <= last ? span : undefined;
  }

  at(key: K): T | undefined {
    return this.firstIn(key, key);
  }

  /** All that have anything in [first, last], ascending. */
  allIn(first: K, last: K): T[] {
    const found: T[] = [];
    for (let at = this.#chunkOf(first); at < this.#chunks.length && this.#chunks[at][0].first <= last; at++) {
      for (const span of this.#chunks[at]) if (span.last >= first && span.first <= last) found.push(span);
    }
    return found;
  }

  /** @throws RangeError when it overlaps: the caller has not looked. */
  insert(span: T): void {
    const at = Math.max(Math.min(this.#chunkOf(span.first), this.#chunks.length - 1), 0);
    const chunk = this.#chunks[at] ?? [];
    const index = indexIn(chunk, span.first);
    if (index < chunk.length && chunk[index].first <= span.last) throw new RangeError(`SpanList: [${span.first}, ${span.last}] overlaps`);
    if (chunk.length === 0) this.#chunks.push(chunk);
    chunk.splice(index, 0, span);
    // What was appended alone begins the next chunk: ascending insertions leave full chunks behind.
    if (chunk.length > CHUNK) this.#chunks.splice(at + 1, 0, chunk.splice(index === CHUNK ? CHUNK : CHUNK / 2));
    this.#size++;
  }

  remove(span: T): void {
    const at = this.#chunkOf(span.first);
    const chunk = this.#chunks[at] ?? [];
    const index = indexIn(chunk, span.first);
    if (chunk[index] !== span) throw new RangeError(`SpanList: [${span.first}, ${span.last}] is not in it`);
    if (chunk.length > 1) chunk.splice(index, 1);
    else this.#chunks.splice(at, 1);
    this.#size--;
  }
}

/** Index of the first span of a chunk that ends at `key` or behind it. */
function indexIn<K extends number | bigint>(chunk: readonly Span<K>[], key: K): number {
  return search(chunk.length, (index) => chunk[index].last < key);
}

function lastOf<T>(chunk: readonly T[]): T {
  return chunk[chunk.length - 1];
}

/** The first of 0..count - 1 that is not `below`; count: none. */
function search(count: number, below: (index: number) => boolean): number {
  let low = 0;
  let high = count;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if (below(middle)) low = middle + 1;
    else high = middle;
  }
  return low;
}

/** What of a span a hole leaves. */
export function without({ first, last }: Span<bigint>, hole: Span<bigint>): Span<bigint>[] {
  if (hole.first > last || hole.last < first) return [{ first, last }];
  const parts: Span<bigint>[] = [];
  if (hole.first > first) parts.push({ first, last: hole.first - 1n });
  if (hole.last < last) parts.push({ first: hole.last + 1n, last });
  return parts;
}
