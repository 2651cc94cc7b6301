import { requireInteger, requireObject } from '../memory/arguments.ts';
import { MEM_OK, PFN_LIMIT } from '../memory/index.ts';
import { LOADED, requireMemory } from '../memory/loaded.ts';
import { type Description, OUT_LENGTH, type TableAllocator, type TableMemory, type TableReader, type TableVisitor } from './page-table.ts';
import { Runs } from './runs.ts';

/** LOADED, here because the compiler folds a module's own constants only. */
const word = LOADED;

/** What `decode` says of an entry. */
export const ABSENT = 0;
export const TABLE = 1;
export const LEAF = 2;
export const MALFORMED = 3;

/** Where `decode` leaves what it found. Addresses are bytes, exact as a number: multiples of 2 KiB below 2^64. */
export interface Entry {
  /** Given to `decode`: which entry of its table it is. */
  index: number;
  /** TABLE: the next table. LEAF: the block of 2^lg2 bytes that the entry is part of. */
  address: number;
  /** TABLE: the level of the next table. */
  next: number;
  /** LEAF: lg2 of the block; more than the level's shift where several entries make one mapping. */
  lg2: number;
  /** LEAF: what it grants to an unprivileged access. TABLE: what entries below it can grant at most. */
  permission: number;
}

/** What all formats are configured with. */
export interface RadixConfig {
  /** Page frame number of the root table. */
  readonly root: number;
  /** Needed by `map` and `unmap` only. */
  readonly allocator?: TableAllocator;
}

/** What every format is made of, looked at before it is. @throws TypeError or RangeError that names the part. */
export function requireParts(
  format: string,
  memory: TableMemory,
  config: { readonly root: number | bigint; readonly allocator?: TableAllocator },
): void {
  requireMemory(format, memory, ['load64', 'store64']);
  requireObject(format, 'config', config);
  if (typeof config.root !== 'bigint') requireInteger(format, 'root', config.root, 0, PFN_LIMIT - 1);
  if (config.allocator !== undefined) requireObject(format, 'allocator', config.allocator, 'allocator', ['allocate', 'free']);
}

/** A range of input pages that one table translates. */
interface Window {
  readonly first: number;
  readonly last: number;
  /** Page that entry 0 of the root table translates. */
  readonly base: number;
}

/** An enumeration under way. */
interface Scan {
  readonly runs: Runs;
  /** Which entries of the root belong to the range: the other half's lie in the same table. */
  window: Window;
  budget: number;
  /** First page not examined. */
  reached: number;
}

/** A radix tree of tables, its entries, and how they are enumerated: what reading needs that all formats do alike. */
export abstract class RadixReader {
  readonly description: Description;
  readonly out: Int32Array = new Int32Array(OUT_LENGTH);
  protected readonly memory: TableMemory;
  /** Byte address of the root table, and which pages it translates. */
  protected readonly root: number;
  protected readonly windows: readonly Window[];
  /** By level: pages that one entry covers, entries of a table. */
  protected readonly pages: readonly number[];
  protected readonly entries: readonly number[];
  /** What `decodeAt` found. */
  protected readonly found: Entry = { index: 0, address: 0, next: 0, lg2: 0, permission: 0 };
  protected readonly entryBytes: number;
  /** Told of each leaf of more than 4 KiB that an enumeration meets: a page of it, lg2 of its bytes. */
  largeLeaf: ((page: number, lg2: number) => void) | null = null;
  /** Told of the pieces of tables that an enumeration reads. */
  tableRead: TableReader | null = null;

  constructor(memory: TableMemory, config: RadixConfig, description: Description, entryBytes: number) {
    this.memory = memory;
    this.description = description;
    this.root = config.root * 4096;
    this.entryBytes = entryBytes;
    this.pages = description.levels.map(({ shift }) => 2 ** (shift - 12));
    this.entries = description.levels.map(({ bits }) => 2 ** bits);
    this.windows = windowsOf(description);
  }

  /** Reads an entry of a level into `into` and says what it is. Pure: sets no accessed bit. */
  protected abstract decode(level: number, hi: number, lo: number, into: Entry): number;
  /** Loads an entry into LOADED; formats whose entries are not little-endian 64 bits override it. */
  protected load(hi: number, lo: number): number {
    return this.memory.load64(hi, lo);
  }
  protected store(hi: number, lo: number, valueHi: number, valueLo: number): number {
    return this.memory.store64(hi, lo, valueHi, valueLo);
  }

  /** Entries lie in memory as they are: little-endian, 64 bits each. */
  protected get plain(): boolean {
    return this.entryBytes === 8 && this.load === RadixReader.prototype.load;
  }

  enumerate(first: number, last: number, visit: TableVisitor, budget: number): number {
    const scan: Scan = { runs: new Runs(visit), window: this.windows[0], budget, reached: last + 1 };
    for (const window of this.windows) {
      scan.window = window;
      const from = Math.max(first, window.first);
      const to = Math.min(last, window.last);
      if (from <= to && !this.#scan(scan, this.root, this.pages.length - 1, window.base, from, to, -1)) break;
    }
    return scan.runs.flush() ? scan.reached : scan.runs.visitedEnd;
  }

  /** Scans [first, last] within the table of `level` at `table` whose entry 0 covers page `base`. False: ended early. */
  #scan(scan: Scan, table: number, level: number, base: number, first: number, last: number, permission: number): boolean {
    const pages = this.pages[level];
    const lastIndex = Math.floor((last - base) / pages);
    const firstIndex = Math.floor((first - base) / pages);
    if (this.tableRead !== null) this.#tellRead(scan.window, table, level, base, firstIndex, lastIndex, this.tableRead);
    for (let index = firstIndex; index <= lastIndex; index++) {
      const start = base + index * pages;
      const from = Math.max(first, start);
      if (scan.budget-- <= 0) {
        scan.reached = from;
        return false;
      }
      const kind = this.decodeAt(table, index, level);
      const { address, next, lg2, permission: granted } = this.found;
      if (kind === TABLE) {
        // A table more than one level down (AMD v1) covers only the start of what its entry covers.
        const to = Math.min(last, start + this.pages[next] * this.entries[next] - 1);
        if (from <= to && !this.#scan(scan, address, next, start, from, to, permission & granted)) return false;
      } else if (kind === LEAF && (permission & granted) !== 0) {
        const to = Math.min(last, start + pages - 1);
        if (lg2 > 12) this.largeLeaf?.(from, lg2);
        const output = address / 4096 + (from % 2 ** (lg2 - 12));
        if (!scan.runs.add(from, output, to - from + 1, permission & granted)) {
          scan.reached = scan.runs.visitedEnd;
          return false;
        }
      }
    }
    return true;
  }

  /** Each 4 KiB of the table that entries are read from, whole: what is read of it next time is the same piece. */
  #tellRead(window: Window, table: number, level: number, base: number, firstIndex: number, lastIndex: number, told: TableReader): void {
    const pages = this.pages[level];
    const piece = 4096 / this.entryBytes;
    for (let index = firstIndex - (firstIndex % piece); index <= lastIndex; index += piece) {
      const from = Math.max(index, Math.floor((window.first - base) / pages));
      const end = Math.min(index + piece, this.entries[level], Math.floor((window.last - base) / pages) + 1);
      told(table + from * this.entryBytes, (end - from) * this.entryBytes, end - from, base + from * pages, base + end * pages - 1);
    }
  }

  protected decodeAt(table: number, index: number, level: number): number {
    if (this.loadEntry(table, index) !== MEM_OK) return MALFORMED;
    this.found.index = index;
    return this.decode(level, word[1], word[0], this.found);
  }

  protected loadEntry(table: number, index: number): number {
    const address = table + index * this.entryBytes;
    return this.load((address / 0x1_0000_0000) | 0, address | 0);
  }

  protected storeEntry(table: number, index: number, hi: number, lo: number): void {
    const address = table + index * this.entryBytes;
    this.store((address / 0x1_0000_0000) | 0, address | 0, hi, lo);
  }
}

/** Canonical input has a low and a high half; the high half uses the upper half of the root table. */
function windowsOf({ inputBits, canonical, upper }: Description): readonly Window[] {
  const pages = 2 ** (inputBits - 12);
  if (upper) return [{ first: PFN_LIMIT - pages, last: PFN_LIMIT - 1, base: PFN_LIMIT - pages }];
  if (!canonical) return [{ first: 0, last: pages - 1, base: 0 }];
  return [
    { first: 0, last: pages / 2 - 1, base: 0 },
    { first: PFN_LIMIT - pages / 2, last: PFN_LIMIT - 1, base: PFN_LIMIT - pages },
  ];
}
