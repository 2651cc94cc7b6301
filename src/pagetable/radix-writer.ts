import { MEM_OK } from '../memory/index.ts';
import { LOADED } from '../memory/loaded.ts';
import type { Description, TableAllocator, TableMemory } from './page-table.ts';
import { ABSENT, type RadixConfig, RadixReader } from './radix-reader.ts';

/** LOADED, here because the compiler folds a module's own constants only. */
const word = LOADED;

/** Entries that are read, made and stored together: a table of 4 KiB. */
const STAGED = 512;
/** As many are read first where nobody knows whether the next is like this one. */
const FEW = 8;

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

/** A mapping to be stored, in as many entries as it takes. */
export interface Leaf {
  readonly address: number;
  readonly lg2: number;
  readonly permission: number;
  /** Bits that the entries have besides. */
  readonly keptHi: number;
  readonly keptLo: number;
}

/** How the entries of a radix tree of tables are written: made in a staging page and stored by the run; and how tables come and go. */
export abstract class RadixWriter extends RadixReader {
  /** The entry that `encodeTable` and `encodeLeaf` made: [lo, hi]. */
  protected readonly made: Int32Array = new Int32Array(2);
  /** Bits of a leaf that its parts keep when it is split (accessed, dirty, memory type): [lo, hi]. */
  protected abstract readonly kept: readonly [number, number];
  readonly #allocator: TableAllocator | undefined;
  /** Runs of entries as they lie in memory: little-endian, 64 bits each, in memory that knows runs. */
  readonly #loadRun: TableMemory['loadRun64'];
  readonly #storeRun: TableMemory['storeRun64'];
  readonly #replaceAlike: TableMemory['replaceAlike64'];
  /** An entry of zeros maps nothing, which spares decoding it. */
  #zeroIsAbsent = false;

  constructor(memory: TableMemory, config: RadixConfig, description: Description, entryBytes: number) {
    super(memory, config, description, entryBytes);
    this.#allocator = config.allocator;
    this.#loadRun = this.plain ? memory.loadRun64?.bind(memory) : undefined;
    this.#replaceAlike = this.plain ? memory.replaceAlike64?.bind(memory) : undefined;
    this.#storeRun = this.plain ? memory.storeRun64?.bind(memory) : undefined;
  }

  /** Low half of an entry that maps nothing, as `unmap` and new tables have it; its high half is 0. */
  protected absentLo(_level: number): number {
    return 0;
  }

  /**
   * Of `plain` entries, bits of the low half that say of a leaf of this level that another entry is one too, if they and the whole high half are
   * the same. Here for formats that have a block's address in its place, and bits below it of which the `kept` ones may be anything.
   */
  protected leafBits(level: number, _hi: number, _lo: number): number {
    const { shift } = this.description.levels[level];
    return shift < 32 ? (2 ** shift - 1) & ~this.kept[0] : -1;
  }

  /** Makes the entry of `level` that points to the next lower table at a byte address. */
  protected abstract encodeTable(level: number, address: number): void;
  /** Makes the entry of `level` that maps its part, at byte `address`, of a mapping of 2^lg2 bytes. */
  protected abstract encodeLeaf(level: number, lg2: number, address: number, permission: number): void;

  /** How many entries from `index` on are absent; the first one is. Reads three times as many at most, and a few. */
  protected absentRun(table: number, index: number, most: number, level: number): number {
    for (let run = 1, count = 0; run < most; run += count) {
      count = Math.min(most - run, STAGED, Math.max(2 * run, FEW));
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

  /** Clears the leaf at `index`, as it was loaded, and those after it that are like it, `most` in all. Returns how many. */
  protected clearLeaves(table: number, index: number, most: number, level: number): number {
    const absent = this.absentLo(level);
    if (this.#replaceAlike !== undefined) {
      const address = table + index * this.entryBytes;
      const bits = this.leafBits(level, word[1], word[0]);
      const run = this.#replaceAlike((address / 0x1_0000_0000) | 0, address | 0, bits, most, absent);
      if (run > 0) return run;
    }
    this.storeEntry(table, index, 0, absent);
    return 1;
  }

  /** Looks first beside the entry that was cleared last: when pages go one by one, a neighbour still stands. */
  protected isEmpty(table: number, level: number, near: number): boolean {
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
  protected storeLeaves(table: number, index: number, count: number, level: number, leaf: Leaf): void {
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

  protected storeMade(table: number, index: number): void {
    this.storeEntry(table, index, this.made[1], this.made[0]);
  }

  #tablePages(level: number): number {
    return Math.max(1, (this.entries[level] * this.entryBytes) / 4096);
  }

  /** Byte address of a table that maps nothing, or -1. */
  protected allocateTable(level: number): number {
    if (this.#allocator === undefined) throw new TypeError(`${this.description.format}: writing tables needs an allocator`);
    const pfn = this.#allocator.allocate(this.#tablePages(level));
    if (pfn < 0) return -1;
    // The allocator's pages are zeroed.
    if (this.absentLo(level) !== 0) this.#storeAbsent(pfn * 4096, 0, this.entries[level], level);
    return pfn * 4096;
  }

  protected dropTable(parent: number, index: number, table: number, level: number): void {
    this.storeEntry(parent, index, 0, this.absentLo(level + 1));
    this.#allocator?.free(table / 4096, this.#tablePages(level));
  }
}
