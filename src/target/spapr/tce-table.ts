/** lg2 of the TCEs in one chunk: 256 KiB. A table of 2^31 TCEs has 2^16 chunks, and most of them never come to be. */
const CHUNK_LG2 = 15;
const CHUNK_TCES = 1 << CHUNK_LG2;
const CHUNK_MASK = CHUNK_TCES - 1;

/** Stands for every chunk that was never written; never written itself, so that reads need no test. */
const EMPTY = new Int32Array(2 * CHUNK_TCES);

/** Bytes of TCE storage that all tables of one IOMMU may take together; a guest can fill it, and no more. */
export class TceBudget {
  left: number;

  constructor(bytes: number) {
    this.left = bytes;
  }
}

/**
 * TCEs by index, kept in chunks that are allocated when a TCE other than 0 is first stored in them. A chunk holds [lo, hi] pairs of
 * int32; `position` says where in its chunk an index lies. Freed storage returns to the budget with `release`.
 */
export class TceTable {
  readonly tces: number;
  readonly #budget: TceBudget;
  readonly #chunks: Int32Array[];
  #bytes = 0;

  constructor(tces: number, budget: TceBudget) {
    this.tces = tces;
    this.#budget = budget;
    this.#chunks = new Array<Int32Array>(Math.ceil(tces / CHUNK_TCES)).fill(EMPTY);
  }

  /** The chunk that holds a TCE, for reading only: it may be one that all tables share. */
  chunk(index: number): Int32Array {
    return this.#chunks[index >>> CHUNK_LG2];
  }

  /** The same, for writing; null when the budget is used up. */
  writable(index: number): Int32Array | null {
    const chunk = this.#chunks[index >>> CHUNK_LG2];
    return chunk === EMPTY ? this.#allocate(index) : chunk;
  }

  #allocate(index: number): Int32Array | null {
    const number = index >>> CHUNK_LG2;
    const tces = Math.min(CHUNK_TCES, this.tces - number * CHUNK_TCES);
    if (tces * 8 > this.#budget.left) return null;
    this.#budget.left -= tces * 8;
    this.#bytes += tces * 8;
    this.#chunks[number] = new Int32Array(2 * tces);
    return this.#chunks[number];
  }

  /** Gives the storage back to the budget; the table must not be used any more. */
  release(): void {
    this.#budget.left += this.#bytes;
    this.#bytes = 0;
  }

  static position(index: number): number {
    return (index & CHUNK_MASK) << 1;
  }

  /** Index of the last TCE in the same chunk. */
  static chunkLast(index: number): number {
    return index | CHUNK_MASK;
  }

  static isEmpty(chunk: Int32Array): boolean {
    return chunk === EMPTY;
  }
}
