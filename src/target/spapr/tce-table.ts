/** lg2 of the TCEs in one chunk: 256 KiB. A table of 2^31 TCEs has 2^16 chunks, and most of them never come to be. */
const CHUNK_LG2 = 15;
const CHUNK_TCES = 1 << CHUNK_LG2;
const CHUNK_MASK = CHUNK_TCES - 1;
/** TCEs that are compared one by one before the rest of a list is compared as bytes. */
const LOOKED_AT = 16;

/**
 * Some TCEs in a row, big-endian as LoPAR 3.2.2.2 has them: as bytes to copy, as words to compare, as a view to read one from. A chunk of a table
 * takes indices of the table as they are: which chunk they are of is not looked at.
 */
export class TceArray {
  readonly bytes: Uint8Array;
  readonly words: Int32Array;
  readonly view: DataView;

  constructor(tces: number) {
    const buffer = new ArrayBuffer(8 * tces);
    this.bytes = new Uint8Array(buffer);
    this.words = new Int32Array(buffer);
    this.view = new DataView(buffer);
  }

  hi(index: number): number {
    return this.view.getInt32((index & CHUNK_MASK) << 3);
  }

  lo(index: number): number {
    return this.view.getInt32(((index & CHUNK_MASK) << 3) | 4);
  }

  set(index: number, hi: number, lo: number): void {
    const { view } = this;
    const byte = (index & CHUNK_MASK) << 3;
    view.setInt32(byte, hi);
    view.setInt32(byte | 4, lo);
  }
}

/** Stands for every chunk that was never written; never written itself, so that reads need no test. */
const EMPTY = new TceArray(CHUNK_TCES);

/** Bytes of TCE storage that all tables of one IOMMU may take together; a guest can fill it, and no more. */
export class TceBudget {
  left: number;

  constructor(bytes: number) {
    this.left = bytes;
  }
}

/**
 * TCEs by index, kept in chunks that are allocated when a TCE other than 0 is first stored in them. `release` returns the storage to the budget.
 */
export class TceTable {
  readonly tces: number;
  readonly #budget: TceBudget;
  readonly #chunks: TceArray[];
  #bytes = 0;

  constructor(tces: number, budget: TceBudget) {
    this.tces = tces;
    this.#budget = budget;
    this.#chunks = new Array<TceArray>(Math.ceil(tces / CHUNK_TCES)).fill(EMPTY);
  }

  /** The chunk that holds a TCE, for reading only: it may be one that all tables share. */
  chunk(index: number): TceArray {
    return this.#chunks[index >>> CHUNK_LG2];
  }

  /** The same, for writing; null when the budget is used up. */
  writable(index: number): TceArray | null {
    const chunk = this.#chunks[index >>> CHUNK_LG2];
    return chunk === EMPTY ? this.#allocate(index) : chunk;
  }

  /** Stores a TCE where there is storage for it already; false: there is none. */
  put(index: number, hi: number, lo: number): boolean {
    const chunk = this.#chunks[index >>> CHUNK_LG2];
    if (chunk === EMPTY) return false;
    chunk.set(index, hi, lo);
    return true;
  }

  #allocate(index: number): TceArray | null {
    const number = index >>> CHUNK_LG2;
    const tces = Math.min(CHUNK_TCES, this.tces - number * CHUNK_TCES);
    if (tces * 8 > this.#budget.left) return null;
    this.#budget.left -= tces * 8;
    this.#bytes += tces * 8;
    const chunk = new TceArray(tces);
    this.#chunks[number] = chunk;
    return chunk;
  }

  /** Gives the storage back to the budget; the table must not be used any more. */
  release(): void {
    this.#budget.left += this.#bytes;
    this.#bytes = 0;
  }

  /** Index of the last TCE in the same chunk. */
  static chunkLast(index: number): number {
    return index | CHUNK_MASK;
  }

  static isEmpty(chunk: TceArray): boolean {
    return chunk === EMPTY;
  }

  /** The first of `tces[0, count)` that differs from what stands from `index` on; `count` when none does. */
  firstDifference(index: number, tces: TceArray, count: number): number {
    const { words, bytes } = tces;
    for (let i = 0; i < count; ) {
      const chunk = this.chunk(index + i);
      const table = chunk.words;
      const stop = Math.min(count, TceTable.chunkLast(index + i) + 1 - index);
      // Where the first ones stand there already, so may the rest: bytes are compared eight times as fast.
      const looked = Math.min(i + LOOKED_AT, stop);
      for (let at = 2 * placeOf(index + i); i < stop; i++, at += 2) {
        if (((words[2 * i] ^ table[at]) | (words[2 * i + 1] ^ table[at + 1])) !== 0) return i;
        if (i !== looked || !same(bytes, 8 * i, chunk.bytes, 4 * at, 8 * (stop - i))) continue;
        i = stop;
        break;
      }
    }
    return count;
  }

  /** The last that differs, -1 when none does. */
  lastDifference(index: number, tces: TceArray, count: number): number {
    const { words } = tces;
    for (let i = count - 1; i >= 0; i--) {
      const table = this.chunk(index + i).words;
      const at = 2 * placeOf(index + i);
      if (((words[2 * i] ^ table[at]) | (words[2 * i + 1] ^ table[at + 1])) !== 0) return i;
    }
    return -1;
  }

  /** Copies what stands from `index` on to `to[first, end)`. */
  read(index: number, to: TceArray, first: number, end: number): void {
    for (let i = first; i < end; ) {
      const stop = Math.min(end, TceTable.chunkLast(index + i) + 1 - index);
      copy(this.chunk(index + i), placeOf(index + i), to, i, stop - i);
      i = stop;
    }
  }

  /** Copies `from[first, end)` to `index + first` and on. A chunk that has no storage gets none: `reserve` has seen to that. */
  write(index: number, from: TceArray, first: number, end: number): void {
    for (let i = first; i < end; ) {
      const chunk = this.chunk(index + i);
      const stop = Math.min(end, TceTable.chunkLast(index + i) + 1 - index);
      if (chunk !== EMPTY) copy(from, i, chunk, placeOf(index + i), stop - i);
      i = stop;
    }
  }

  /** Makes storage for those of `tces[first, end)` that are not 0. False: the budget is used up, and nothing was stored. */
  reserve(index: number, tces: TceArray, first: number, end: number): boolean {
    for (let i = first; i < end; ) {
      const stop = Math.min(end, TceTable.chunkLast(index + i) + 1 - index);
      if (this.chunk(index + i) === EMPTY) {
        let bits = 0;
        for (let at = 2 * i; at < 2 * stop; at++) bits |= tces.words[at];
        if (bits !== 0 && this.#allocate(index + i) === null) return false;
      }
      i = stop;
    }
    return true;
  }
}

/** Place of an index in its chunk. */
function placeOf(index: number): number {
  return index & CHUNK_MASK;
}

function same(one: Uint8Array, at: number, other: Uint8Array, place: number, bytes: number): boolean {
  return Buffer.compare(one.subarray(at, at + bytes), other.subarray(place, place + bytes)) === 0;
}

/** `set` copies as fast as memory does, but makes a view first: worth it from some tens of TCEs on. */
function copy(from: TceArray, at: number, to: TceArray, place: number, tces: number): void {
  if (tces > 32) to.words.set(from.words.subarray(2 * at, 2 * (at + tces)), 2 * place);
  else for (let i = 0; i < 2 * tces; i++) to.words[2 * place + i] = from.words[2 * at + i];
}
