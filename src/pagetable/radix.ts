import { LOADED } from '../memory/loaded.ts';
import type { Description, PageTable, TableMemory } from './page-table.ts';
import { ABSENT, LEAF, type RadixConfig, TABLE } from './radix-reader.ts';
import { type Leaf, RadixWriter } from './radix-writer.ts';

/** LOADED, here because the compiler folds a module's own constants only. */
const word = LOADED;

export { ABSENT, type Entry, LEAF, MALFORMED, type RadixConfig, TABLE } from './radix-reader.ts';

/** A `map` under way. */
interface Fill {
  next: number;
  readonly end: number;
  /** Output page of input page 0. */
  readonly delta: number;
  readonly permission: number;
}

/**
 * What every radix tree of tables does alike, and seldom enough to be shared: enumerate (radix-reader.ts), map and unmap, by runs of entries
 * (radix-writer.ts). A format hands in its description, reads and makes single entries, and has a `walk` of its own, specialised for speed,
 * that uses none of this.
 */
export abstract class RadixTable extends RadixWriter implements PageTable {
  /** By level: mapping sizes (lg2, ascending). */
  readonly #sizes: readonly (readonly number[])[];
  /** Whether the last `#clear` left something where it cleared. */
  #leftover = false;
  constructor(memory: TableMemory, config: RadixConfig, description: Description, entryBytes = 8) {
    super(memory, config, description, entryBytes);
    const { levels, pageLg2s } = description;
    this.#sizes = levels.map(({ shift, bits }) => pageLg2s.filter((lg2) => lg2 >= shift && lg2 < shift + bits));
  }

  abstract walk(hi: number, lo: number, access: number): number;

  map(iova: number, output: number, pages: number, permission: number): number {
    const { permissions, outputBits } = this.description;
    if (!permissions.includes(permission)) throw new RangeError(`${this.description.format}: no mapping has permission ${permission}`);
    this.#checkAligned(iova, output, pages);
    const window = this.windows.find(({ first, last }) => iova >= first && iova <= last);
    if (window === undefined) return 0;
    const limit = Math.min(pages, window.last + 1 - iova, 2 ** (outputBits - 12) - output);
    const fill: Fill = { next: iova, end: iova + limit, delta: output - iova, permission };
    this.#fill(fill, this.root, this.pages.length - 1, window.base);
    return Math.max(0, fill.next - iova);
  }

  #checkAligned(...values: number[]): void {
    const granule = this.pages[0];
    if (values.some((value) => !Number.isSafeInteger(value) || value < 0 || value % granule !== 0))
      throw new RangeError(`${this.description.format}: [${values}] are not multiples of its smallest page of ${granule * 4096} bytes`);
  }

  /** Maps on from `fill.next` to the end of what the table covers. False: it cannot go on. `fresh`: nothing stands in the table from there on. */
  #fill(fill: Fill, table: number, level: number, base: number, fresh = false): boolean {
    const pages = this.pages[level];
    const end = Math.min(fill.end, base + pages * this.entries[level]);
    while (fill.next < end) {
      const index = Math.floor((fill.next - base) / pages);
      const start = base + index * pages;
      const kind = this.decodeAt(table, index, level);
      const { address, next } = this.found;
      if (kind === TABLE) {
        const covered = start + this.pages[next] * this.entries[next];
        if (fill.next < covered ? !this.#fill(fill, address, next, start) : !this.#insert(table, index, level)) return false;
      } else if (
        kind !== ABSENT ||
        !(this.#putLeaf(fill, table, index, level, fresh) || this.#putTable(fill, table, index, level, start))
      ) {
        return false;
      }
    }
    return true;
  }

  /** Maps at `fill.next` by the largest mapping that this level can hold there, or by a run of the level's only size. */
  #putLeaf(fill: Fill, table: number, index: number, level: number, fresh: boolean): boolean {
    const sizes = this.#sizes[level];
    const pages = this.pages[level];
    for (let i = this.#fitting(fill, sizes); i >= 0; i--) {
      const count = 2 ** (sizes[i] - 12) / pages;
      const most = sizes.length > 1 ? count : Math.min(this.entries[level] - index, Math.floor((fill.end - fill.next) / pages));
      const run = fresh ? most : this.absentRun(table, index, most, level);
      if (run < count) continue;
      const address = (fill.next + fill.delta) * 4096;
      this.storeLeaves(table, index, run, level, { address, lg2: sizes[i], permission: fill.permission, keptHi: 0, keptLo: 0 });
      fill.next += run * pages;
      return true;
    }
    return false;
  }

  /** Index of the largest of these sizes to which what is next is aligned and for which there is room, or -1. */
  #fitting(fill: Fill, sizes: readonly number[]): number {
    const output = fill.next + fill.delta;
    const room = fill.end - fill.next;
    let i = 0;
    for (; i < sizes.length; i++) {
      const size = 2 ** (sizes[i] - 12);
      // The smallest size of all needs no look at the alignment: `map` has checked it.
      if (size > room || (size !== this.pages[0] && (fill.next % size !== 0 || output % size !== 0))) break;
    }
    return i - 1;
  }

  /** Makes a table for an absent entry and maps on in it. An allocated table in which nothing could be mapped is given back. */
  #putTable(fill: Fill, table: number, index: number, level: number, start: number): boolean {
    const child = level === 0 ? -1 : this.allocateTable(level - 1);
    if (child < 0) return false;
    const before = fill.next;
    this.encodeTable(level, child);
    this.storeMade(table, index);
    const done = this.#fill(fill, child, level - 1, start, true);
    if (fill.next === before) this.dropTable(table, index, child, level - 1);
    return done;
  }

  /** Puts the table that the skipping format left out between an entry and the table it points to. */
  #insert(table: number, index: number, level: number): boolean {
    this.loadEntry(table, index);
    const [lo, hi] = word;
    const child = this.allocateTable(level - 1);
    if (child < 0) return false;
    this.storeEntry(child, 0, hi, lo);
    this.encodeTable(level, child);
    this.storeMade(table, index);
    return true;
  }

  unmap(iova: number, pages: number): number {
    this.#checkAligned(iova, pages);
    if (!this.#splitAt(iova) || !this.#splitAt(iova + pages)) return -1;
    let unmapped = 0;
    for (const window of this.windows) {
      const first = Math.max(iova, window.first);
      const last = Math.min(iova + pages - 1, window.last);
      if (first <= last) unmapped += this.#clear(this.root, this.pages.length - 1, window.base, first, last);
    }
    return unmapped;
  }

  /** Makes a mapping that reaches over the start of page `at` end there. False: no memory for tables. */
  #splitAt(at: number): boolean {
    const window = this.windows.find(({ first, last }) => at > first && at <= last);
    if (window === undefined) return true;
    let table = this.root;
    let base = window.base;
    for (let level = this.pages.length - 1; ; ) {
      const pages = this.pages[level];
      const index = Math.floor((at - base) / pages);
      const kind = index < this.entries[level] ? this.decodeAt(table, index, level) : ABSENT;
      const { address, next, lg2 } = this.found;
      if (kind === LEAF) {
        if (at % 2 ** (lg2 - 12) === 0) return true;
        if (!this.#split(table, index, level)) return false;
      } else if (kind === TABLE) {
        table = address;
        base += index * pages;
        level = next;
      } else {
        return true;
      }
    }
  }

  /** Splits a leaf: entries that make one mapping become single ones, a single one becomes a table. */
  #split(table: number, index: number, level: number): boolean {
    const { address, lg2, permission } = this.found;
    const leaf: Leaf = { address, lg2, permission, keptHi: word[1] & this.kept[1], keptLo: word[0] & this.kept[0] };
    const { levels } = this.description;
    if (lg2 > levels[level].shift) {
      const count = 2 ** (lg2 - levels[level].shift);
      this.storeLeaves(table, index - (index % count), count, level, { ...leaf, lg2: levels[level].shift });
      return true;
    }
    const child = this.allocateTable(level - 1);
    if (child < 0) return false;
    this.storeLeaves(child, 0, this.entries[level - 1], level - 1, { ...leaf, lg2: levels[level - 1].shift });
    this.encodeTable(level, child);
    this.storeMade(table, index);
    return true;
  }

  /** Clears the leaves of [first, last], none of which reaches out of it, and frees the tables that become empty. Returns pages. */
  #clear(table: number, level: number, base: number, first: number, last: number): number {
    const pages = this.pages[level];
    const end = Math.floor((last - base) / pages) + 1;
    let cleared = 0;
    let leftover = false;
    for (let index = Math.floor((first - base) / pages); index < end; ) {
      const kind = this.decodeAt(table, index, level);
      let run = 1;
      if (kind === LEAF) {
        run = this.clearLeaves(table, index, end - index, level);
        cleared += run * pages;
      } else if (kind === ABSENT) {
        run = this.absentRun(table, index, end - index, level);
      } else if (kind === TABLE) {
        const { address, next } = this.found;
        const start = base + index * pages;
        cleared += this.#clearChild(table, index, address, next, start, Math.max(first, start), last);
        leftover ||= this.#leftover;
      } else {
        leftover = true;
      }
      index += run;
    }
    this.#leftover = leftover;
    return cleared;
  }

  /** Clears what the table of an entry maps from page `from` on, `start` being its first, and the entry when nothing is left; `#leftover`: it stays. */
  #clearChild(table: number, index: number, child: number, level: number, start: number, from: number, last: number): number {
    const covered = start + this.pages[level] * this.entries[level] - 1;
    const cleared = from <= covered ? this.#clear(child, level, start, from, Math.min(last, covered)) : 0;
    const whole = from === start && last >= covered;
    const empty = whole ? !this.#leftover : from <= covered && this.isEmpty(child, level, Math.floor((from - start) / this.pages[level]));
    if (empty) this.dropTable(table, index, child, level);
    this.#leftover = !empty;
    return cleared;
  }
}
