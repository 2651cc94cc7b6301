import { READ_WRITE } from '../../../memory/access.ts';
import { PAGE_BYTES, PAGE_LG2 } from '../../../memory/address.ts';
import type { Frames } from '../memory.ts';
import { DMA_FORBIDDEN, DMA_UNMAPPED, type Translation } from '../translation.ts';

/** A POWER host bridge with its partitionable endpoint (the kernel's struct iommu_table_group). */
export interface TceConfig {
  /** The default window, in bytes of the bus. */
  readonly start32?: number;
  readonly bytes32?: number;
  /** Bitmap of page sizes of dynamic windows; 0: no dynamic windows, so no version 2. */
  readonly pageSizes?: bigint;
  readonly windowsMax?: number;
  readonly levelsMax?: number;
  /** Where the second window begins on the bus. */
  readonly start64?: bigint;
  /** lg2 of the pages that the process's memory consists of: no window with larger ones can map it. */
  readonly memoryPageLg2?: number;
  readonly eeh?: boolean;
}

/** As PowerNV with PHB3 has it: a default window of 2 GiB, two windows, the second at 2^59, five levels. */
export const tceDefaults: Required<TceConfig> = {
  start32: 0,
  bytes32: 0x8000_0000,
  pageSizes: 0x101_1000n,
  windowsMax: 2,
  levelsMax: 5,
  start64: 1n << 59n,
  memoryPageLg2: PAGE_LG2,
  eeh: true,
};

/** What a TCE holds: the memory of the process that it reaches, pinned. */
export interface TceEntry {
  /** 4 KiB page of physical memory. */
  readonly physical: number;
  readonly permission: number;
  readonly frames: Frames;
  /** Virtual address that was mapped. */
  readonly address: number;
}

/** TCEs that stand together, lg2: what a walk over a range passes at once where none is set. */
const LEAF_LG2 = 9;

/** A leaf of a TCE table: what is set of 2^LEAF_LG2 entries. */
interface Leaf {
  readonly tces: (TceEntry | undefined)[];
  used: number;
}

/** One TCE table and the window that it is seen through. Entries count from the window's first page. */
export class TceTable {
  readonly start: bigint;
  readonly pageLg2: number;
  readonly entries: number;
  readonly levels: number;
  readonly #leaves = new Map<number, Leaf>();
  #mapped = 0;

  constructor(start: bigint, pageLg2: number, entries: number, levels: number) {
    this.start = start;
    this.pageLg2 = pageLg2;
    this.entries = entries;
    this.levels = levels;
  }

  get mapped(): number {
    return this.#mapped;
  }

  /** Entry of an address, or -1 when it lies outside the window. */
  entryOf(address: bigint): number {
    const entry = (address - this.start) >> BigInt(this.pageLg2);
    return entry >= 0n && entry < BigInt(this.entries) ? Number(entry) : -1;
  }

  get(entry: number): TceEntry | undefined {
    return this.#leaves.get(leafOf(entry))?.tces[entry % 2 ** LEAF_LG2];
  }

  /** Sets or clears an entry. Returns what was there. */
  exchange(entry: number, value: TceEntry | null): TceEntry | undefined {
    let leaf = this.#leaves.get(leafOf(entry));
    if (leaf === undefined) {
      if (value === null) return undefined;
      leaf = { tces: new Array(2 ** LEAF_LG2), used: 0 };
      this.#leaves.set(leafOf(entry), leaf);
    }
    const slot = entry % 2 ** LEAF_LG2;
    const old = leaf.tces[slot];
    leaf.tces[slot] = value ?? undefined;
    const more = (value === null ? 0 : 1) - (old === undefined ? 0 : 1);
    leaf.used += more;
    this.#mapped += more;
    if (leaf.used === 0) this.#leaves.delete(leafOf(entry));
    return old;
  }

  /** Entries in use of [first, first + count), ascending. */
  used(first: number, count: number): number[] {
    const found: number[] = [];
    for (const index of this.#leavesOf(leafOf(first), leafOf(first + count - 1))) {
      this.#leaves.get(index)?.tces.forEach((tce, slot) => {
        const entry = index * 2 ** LEAF_LG2 + slot;
        if (tce !== undefined && entry >= first && entry < first + count) found.push(entry);
      });
    }
    return found;
  }

  /** The leaves from one to another, ascending: by number where those are few, else those that there are. */
  #leavesOf(first: number, last: number): number[] {
    if (last - first < this.#leaves.size) return Array.from({ length: last - first + 1 }, (_, i) => first + i);
    return [...this.#leaves.keys()].filter((index) => index >= first && index <= last).sort((a, b) => a - b);
  }

  /** Physical 4 KiB page for an access to an IOVA page, or a negative fault; null: outside the window. */
  translate(pfn: number, access: number): number | null {
    const address = BigInt(pfn) * BigInt(PAGE_BYTES);
    const entry = this.entryOf(address);
    if (entry < 0) return null;
    const tce = this.get(entry);
    if (tce === undefined) return DMA_UNMAPPED;
    if ((access & READ_WRITE & ~tce.permission) !== 0) return DMA_FORBIDDEN;
    return tce.physical + Number((address >> BigInt(PAGE_LG2)) & ((1n << BigInt(this.pageLg2 - PAGE_LG2)) - 1n));
  }
}

function leafOf(entry: number): number {
  return Math.floor(entry / 2 ** LEAF_LG2);
}

/** What a device behind the bridge sees: every window of the container. */
export class TceTranslation implements Translation {
  readonly pasids = false;
  readonly #tables: readonly (TceTable | null)[];

  constructor(tables: readonly (TceTable | null)[]) {
    this.#tables = tables;
  }

  translate(pfn: number, access: number): number {
    for (const table of this.#tables) {
      const result = table?.translate(pfn, access) ?? null;
      if (result !== null) return result;
    }
    return DMA_UNMAPPED;
  }
}
