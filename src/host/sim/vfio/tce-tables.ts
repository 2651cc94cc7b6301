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

/** One TCE table and the window that it is seen through. Entries count from the window's first page. */
export class TceTable {
  readonly start: bigint;
  readonly pageLg2: number;
  readonly entries: number;
  readonly levels: number;
  readonly #entries = new Map<number, TceEntry>();

  constructor(start: bigint, pageLg2: number, entries: number, levels: number) {
    this.start = start;
    this.pageLg2 = pageLg2;
    this.entries = entries;
    this.levels = levels;
  }

  get mapped(): number {
    return this.#entries.size;
  }

  /** Entry of an address, or -1 when it lies outside the window. */
  entryOf(address: bigint): number {
    const entry = (address - this.start) >> BigInt(this.pageLg2);
    return entry >= 0n && entry < BigInt(this.entries) ? Number(entry) : -1;
  }

  get(entry: number): TceEntry | undefined {
    return this.#entries.get(entry);
  }

  /** Sets or clears an entry. Returns what was there. */
  exchange(entry: number, value: TceEntry | null): TceEntry | undefined {
    const old = this.#entries.get(entry);
    if (value === null) this.#entries.delete(entry);
    else this.#entries.set(entry, value);
    return old;
  }

  /** Entries in use of [first, first + count), ascending. */
  used(first: number, count: number): number[] {
    return [...this.#entries.keys()].filter((entry) => entry >= first && entry < first + count).sort((a, b) => a - b);
  }

  /** Physical 4 KiB page for an access to an IOVA page, or a negative fault; null: outside the window. */
  translate(pfn: number, access: number): number | null {
    const address = BigInt(pfn) * BigInt(PAGE_BYTES);
    const entry = this.entryOf(address);
    if (entry < 0) return null;
    const tce = this.#entries.get(entry);
    if (tce === undefined) return DMA_UNMAPPED;
    if ((access & READ_WRITE & ~tce.permission) !== 0) return DMA_FORBIDDEN;
    return tce.physical + Number((address >> BigInt(PAGE_LG2)) & ((1n << BigInt(this.pageLg2 - PAGE_LG2)) - 1n));
  }
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
