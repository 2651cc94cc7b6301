import { MEM_OK } from '../memory/index.ts';
import { LOADED } from '../memory/loaded.ts';
import type { Description, PageTable, TableAllocator, TableMemory } from './page-table.ts';
import { ABSENT, LEAF, type RadixConfig, RadixReader, TABLE } from './radix-reader.ts';

/** LOADED, here because the compiler folds a module's own constants only. */
const word = LOADED;

export { ABSENT, type Entry, LEAF, MALFORMED, type RadixConfig, TABLE } from './radix-reader.ts';

/** Entries that are read, made and stored together: a table of 4 KiB. */
const STAGED = 512;

/** Entries on their way from or to a table, as 64-bit entries and as int32 pairs of them. */
interface Stage {
  readonly entries: BigUint64Array;
  readonly words: Int32Array;
}

function makeStage(): Stage {
  const entries = new BigUint64Array(STAGED);
  return { entries, words: new Int32Array(entries.buffer) };
}

/** One a level, for all tables: a level is left before another table is written, but for those above it. */
const stages: readonly Stage[] = Array.from({ length: 8 }, makeStage);
const ABSENTS = makeStage();

/** A `map` under way. */
interface Fill {
  next: number;
  readonly end: number;
  /** Output page of input page 0. */
  readonly delta: number;
  readonly permission: number;
}

/** A mapping to be stored, in as many entries as it takes. */
interface Leaf {
  readonly address: number;
  readonly lg2: number;
  readonly permission: number;
  /** Bits that the entries have besides. */
  readonly keptHi: number;
  readonly keptLo: number;
}

/**
 * What every radix tree of tables does alike, and seldom enough to be shared: enumerate (radix-reader.ts), map and unmap. A
 * format hands in its description, reads and makes single entries, and has a `walk` of its own, specialised for speed, that
 * uses none of this.
 */
export abstract class RadixTable extends RadixReader implements PageTable {
  /** The entry that `encodeTable` and `encodeLeaf` made: [lo, hi]. */
  protected readonly made: Int32Array = new Int32Array(2);
  /** Bits of a leaf that its parts keep when it is split (accessed, dirty, memory type): [lo, hi]. */
  protected abstract readonly kept: readonly [number, number];
  readonly #allocator: TableAllocator | undefined;
  /** By level: mapping sizes (lg2, ascending). */
  readonly #sizes: readonly (readonly number[])[];
  /** Whether the last `#clear` left something where it cleared. */
  #leftover = false;
  /** Runs of entries as they lie in memory: little-endian, 64 bits each, in memory that knows runs. */
  readonly #loadRun: TableMemory['loadRun64'];
  readonly #storeRun: TableMemory['storeRun64'];
  /** An entry of zeros maps nothing, which spares decoding it. */
  #zeroIsAbsent = false;

  constructor(memory: TableMemory, config: RadixConfig, description: Description, entryBytes = 8) {
    super(memory, config, description, entryBytes);
    this.#allocator = config.allocator;
    const { levels, pageLg2s } = description;
    this.#loadRun = this.plain ? memory.loadRun64?.bind(memory) : undefined;
    this.#storeRun = this.plain ? memory.storeRun64?.bind(memory) : undefined;
    this.#sizes = levels.map(({ shift, bits }) => pageLg2s.filter((lg2) => lg2 >= shift && lg2 < shift + bits));
  }

  abstract walk(hi: number, lo: number, access: number): number;

  /** Low half of an entry that maps nothing, as `unmap` and new tables have it; its high half is 0. */
  protected absentLo(_level: number): number {
    return 0;
  }

  /** Whether an entry whose other half is the same is a leaf as `lo`'s is: a cheap yes for entries that differ in the address; `decode` decides the rest. */
  protected sameLeaf(_level: number, lo: number, other: number): boolean {
    return lo === other;
  }

  /** Makes the entry of `level` that points to the next lower table at a byte address. */
  protected abstract encodeTable(level: number, address: number): void;
  /** Makes the entry of `level` that maps its part, at byte `address`, of a mapping of 2^lg2 bytes. */
  protected abstract encodeLeaf(level: number, lg2: number, address: number, permission: number): void;

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
      const run = fresh ? most : this.#absentRun(table, index, most, level);
      if (run < count) continue;
      const address = (fill.next + fill.delta) * 4096;
      this.#storeLeaves(table, index, run, level, { address, lg2: sizes[i], permission: fill.permission, keptHi: 0, keptLo: 0 });
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

  /** How many entries from `index` on are absent; the first one is. */
  #absentRun(table: number, index: number, most: number, level: number): number {
    for (let run = 1; run < most; run += STAGED) {
      const count = Math.min(most - run, STAGED);
      if (!this.#stage(table, index + run, count, level)) return run;
      const present = this.#firstPresent(index + run, count, level);
      if (present < count) return run + present;
    }
    return most;
  }

  #firstPresent(index: number, count: number, level: number): number {
    const { words } = stages[level];
    for (let i = 0; i < count; i++) {
      const lo = words[2 * i];
      const hi = words[2 * i + 1];
      if ((lo | hi) === 0 && this.#zeroIsAbsent) continue;
      this.found.index = index + i;
      if (this.decode(level, hi, lo, this.found) !== ABSENT) return i;
    }
    return count;
  }

  /** Reads `count` entries, STAGED at most, into the level's staging page. False: they are not all memory. */
  #stage(table: number, index: number, count: number, level: number): boolean {
    const { entries, words } = stages[level];
    this.#zeroIsAbsent = this.decode(level, 0, 0, this.found) === ABSENT;
    const address = table + index * this.entryBytes;
    if (this.#loadRun?.((address / 0x1_0000_0000) | 0, address | 0, entries, count) === MEM_OK) return true;
    for (let i = 0; i < count; i++) {
      if (this.loadEntry(table, index + i) !== MEM_OK) return false;
      words[2 * i] = word[0];
      words[2 * i + 1] = word[1];
    }
    return true;
  }

  /** Stores the first `count` entries of a staging page. */
  #store(table: number, index: number, count: number, { entries, words }: Stage): void {
    const address = table + index * this.entryBytes;
    if (this.#storeRun?.((address / 0x1_0000_0000) | 0, address | 0, entries, count) === MEM_OK) return;
    for (let i = 0; i < count; i++) this.storeEntry(table, index + i, words[2 * i + 1], words[2 * i]);
  }

  #storeAbsent(table: number, index: number, count: number, level: number): void {
    const lo = this.absentLo(level);
    if (ABSENTS.words[0] !== lo) ABSENTS.entries.fill(BigInt(lo));
    for (let done = 0; done < count; done += STAGED) this.#store(table, index + done, Math.min(STAGED, count - done), ABSENTS);
  }

  /** Makes a table for an absent entry and maps on in it. An allocated table in which nothing could be mapped is given back. */
  #putTable(fill: Fill, table: number, index: number, level: number, start: number): boolean {
    const child = level === 0 ? -1 : this.#allocateTable(level - 1);
    if (child < 0) return false;
    const before = fill.next;
    this.encodeTable(level, child);
    this.#storeMade(table, index);
    const done = this.#fill(fill, child, level - 1, start, true);
    if (fill.next === before) this.#dropTable(table, index, child, level - 1);
    return done;
  }

  /** Puts the table that the skipping format left out between an entry and the table it points to. */
  #insert(table: number, index: number, level: number): boolean {
    this.loadEntry(table, index);
    const [lo, hi] = word;
    const child = this.#allocateTable(level - 1);
    if (child < 0) return false;
    this.storeEntry(child, 0, hi, lo);
    this.encodeTable(level, child);
    this.#storeMade(table, index);
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
      this.#storeLeaves(table, index - (index % count), count, level, { ...leaf, lg2: levels[level].shift });
      return true;
    }
    const child = this.#allocateTable(level - 1);
    if (child < 0) return false;
    this.#storeLeaves(child, 0, this.entries[level - 1], level - 1, { ...leaf, lg2: levels[level - 1].shift });
    this.encodeTable(level, child);
    this.#storeMade(table, index);
    return true;
  }

  /** Clears the leaves of [first, last], none of which reaches out of it, and frees the tables that become empty. Returns pages. */
  #clear(table: number, level: number, base: number, first: number, last: number): number {
    const pages = this.pages[level];
    const lastIndex = Math.floor((last - base) / pages);
    let cleared = 0;
    let leftover = false;
    for (let from = Math.floor((first - base) / pages); from <= lastIndex; from += STAGED) {
      const count = Math.min(STAGED, lastIndex - from + 1);
      if (!this.#stage(table, from, count, level)) {
        leftover = true;
        continue;
      }
      const { words } = stages[level];
      for (let i = 0; i < count; i++) {
        const lo = words[2 * i];
        const hi = words[2 * i + 1];
        if ((lo | hi) === 0 && this.#zeroIsAbsent) continue;
        this.found.index = from + i;
        const kind = this.decode(level, hi, lo, this.found);
        if (kind === LEAF) {
          const run = this.#leafRun(i, count, level, from);
          this.#storeAbsent(table, from + i, run, level);
          cleared += run * pages;
          i += run - 1;
        } else if (kind === TABLE) {
          const { address, next } = this.found;
          const start = base + (from + i) * pages;
          const child = this.#clearChild(table, from + i, address, next, start, Math.max(first, start), last);
          cleared += child;
          leftover ||= this.#leftover;
          this.#zeroIsAbsent = this.decode(level, 0, 0, this.found) === ABSENT;
        } else if (kind !== ABSENT) leftover = true;
      }
    }
    this.#leftover = leftover;
    return cleared;
  }

  /** How many entries of the staging page from place `at` on are leaves; the first one is. */
  #leafRun(at: number, count: number, level: number, index: number): number {
    const { words } = stages[level];
    const lo = words[2 * at];
    const hi = words[2 * at + 1];
    let end = at + 1;
    for (; end < count; end++) {
      const otherLo = words[2 * end];
      const otherHi = words[2 * end + 1];
      if (otherHi === hi && this.sameLeaf(level, lo, otherLo)) continue;
      this.found.index = index + end;
      if (this.decode(level, otherHi, otherLo, this.found) !== LEAF) break;
    }
    return end - at;
  }

  /** Clears what the table of an entry maps from page `from` on, `start` being its first, and the entry when nothing is left; `#leftover`: it stays. */
  #clearChild(table: number, index: number, child: number, level: number, start: number, from: number, last: number): number {
    const covered = start + this.pages[level] * this.entries[level] - 1;
    const cleared = from <= covered ? this.#clear(child, level, start, from, Math.min(last, covered)) : 0;
    const whole = from === start && last >= covered;
    const empty = whole ? !this.#leftover : from <= covered && this.#isEmpty(child, level, Math.floor((from - start) / this.pages[level]));
    if (empty) this.#dropTable(table, index, child, level);
    this.#leftover = !empty;
    return cleared;
  }

  /** Looks first beside the entry that was cleared last: when pages go one by one, a neighbour still stands. */
  #isEmpty(table: number, level: number, near: number): boolean {
    const entries = this.entries[level];
    const absent = this.absentLo(level);
    for (let i = -1; i < entries - 1; i++) {
      this.loadEntry(table, (near + i + entries) % entries);
      const [lo, hi] = word;
      if (hi !== 0 || (lo !== 0 && lo !== absent)) return false;
    }
    return true;
  }

  /** Stores `count` entries that map on from where `leaf` starts. */
  #storeLeaves(table: number, index: number, count: number, level: number, leaf: Leaf): void {
    const bytes = this.pages[level] * 4096;
    for (let done = 0; done < count; done += STAGED) {
      const some = Math.min(STAGED, count - done);
      this.#encodeLeaves(some, level, leaf, leaf.address + done * bytes, bytes);
      this.#store(table, index + done, some, stages[level]);
    }
  }

  /**
   * Makes entries in the staging page. Where the first, the second and the last of them differ in the low half only, and by one step,
   * all do: an entry holds the address's bits, shifted, and between them no carry leaves the low half.
   */
  #encodeLeaves(count: number, level: number, { lg2, permission, keptHi, keptLo }: Leaf, address: number, bytes: number): void {
    const { words } = stages[level];
    const { made } = this;
    this.encodeLeaf(level, lg2, address + (count - 1) * bytes, permission);
    const lastLo = made[0];
    const lastHi = made[1];
    this.encodeLeaf(level, lg2, address + bytes, permission);
    const secondLo = made[0];
    this.encodeLeaf(level, lg2, address, permission);
    const hi = made[1] | keptHi;
    const step = (secondLo - made[0]) | 0;
    const oneFrame = Math.floor(address / 0x1_0000_0000) === Math.floor((address + (count - 1) * bytes) / 0x1_0000_0000);
    if (
      lg2 === this.description.levels[level].shift &&
      oneFrame &&
      lastHi === made[1] &&
      lastLo === ((made[0] + Math.imul(step, count - 1)) | 0)
    ) {
      for (let i = 0, lo = made[0]; i < count; i++, lo = (lo + step) | 0) {
        words[2 * i] = lo | keptLo;
        words[2 * i + 1] = hi;
      }
      return;
    }
    for (let i = 0; i < count; i++) {
      this.encodeLeaf(level, lg2, address + i * bytes, permission);
      words[2 * i] = made[0] | keptLo;
      words[2 * i + 1] = made[1] | keptHi;
    }
  }

  #storeMade(table: number, index: number): void {
    this.storeEntry(table, index, this.made[1], this.made[0]);
  }

  #tablePages(level: number): number {
    return Math.max(1, (this.entries[level] * this.entryBytes) / 4096);
  }

  /** Byte address of a table that maps nothing, or -1. */
  #allocateTable(level: number): number {
    if (this.#allocator === undefined) throw new TypeError(`${this.description.format}: writing tables needs an allocator`);
    const pfn = this.#allocator.allocate(this.#tablePages(level));
    if (pfn < 0) return -1;
    // The allocator's pages are zeroed.
    if (this.absentLo(level) !== 0) this.#storeAbsent(pfn * 4096, 0, this.entries[level], level);
    return pfn * 4096;
  }

  #dropTable(parent: number, index: number, table: number, level: number): void {
    this.storeEntry(parent, index, 0, this.absentLo(level + 1));
    this.#allocator?.free(table / 4096, this.#tablePages(level));
  }
}
