import type { GuestMemory } from '../memory/guest-memory.ts';

/**
 * The contract of all table formats. Three users: targets walk tables in guest memory, the simulated hardware walks them
 * as hardware, user-owned paths write them. One short file a format; it opens with its specification and its levels.
 */

/**
 * What a walker reads entries through: guest memory, or the second stage in front of it. Same shape as GuestMemory's
 * accessors: 0 or a negative value; the entry in `word` ([lo, hi]), which is LOADED, the one of all memories: walkers refuse another.
 */
export type TableMemory = Pick<
  GuestMemory,
  'word' | 'load64' | 'load64BE' | 'load32' | 'load32BE' | 'store64' | 'store64BE' | 'store32' | 'store32BE' | 'compareExchange64'
> &
  // Many entries at once, where memory can: whoever writes tables is as fast as that.
  Partial<Pick<GuestMemory, 'loadRun64' | 'storeRun64' | 'replaceAlike64'>>;

/** Gives 4 KiB pages for tables that we write. */
export interface TableAllocator {
  /** Page frame number of the first of `pages` zeroed pages, aligned to their size, or -1. */
  allocate(pages: number): number;
  free(pfn: number, pages: number): void;
}

/**
 * Why a walk ended without a translation. `faultCode` packs it with the level (0: the leaf level) into a negative int that is no errno, no
 * MEM_FAULT, and no target's fault code.
 */
export const FAULT_NOT_PRESENT = 1;
export const FAULT_PERMISSION = 2;
/** A reserved bit, a reserved encoding, a misaligned large page. */
export const FAULT_RESERVED = 3;
/** The input address is wider than the table, or not canonical. */
export const FAULT_INPUT_SIZE = 4;
/** The output or a table address is wider than the format's output. */
export const FAULT_OUTPUT_SIZE = 5;
/** A table entry lies outside memory, or the second stage refused the access to it. */
export const FAULT_TABLE_ACCESS = 6;
/** Accessed (or dirty) bit clear where hardware does not set it. */
export const FAULT_ACCESS_FLAG = 7;
export type FaultKind = 1 | 2 | 3 | 4 | 5 | 6 | 7;

export function faultCode(kind: FaultKind, level: number): number {
  return -(0x2000 | kind | (level << 4));
}
export function faultKind(code: number): FaultKind {
  return (-code & 15) as FaultKind;
}
export function faultLevel(code: number): number {
  return (-code >> 4) & 15;
}

/** Where `walk` leaves its result. */
export const OUT_LO = 0;
export const OUT_HI = 1;
/** Permission bits of src/memory/access.ts that the whole path grants. */
export const OUT_PERMISSION = 2;
/** The leaf's memory-type bits, in the format's own encoding; of Arm's stage 1 also bit 11, nG: not every ASID's. */
export const OUT_TYPE = 3;
/** Ints in `out`. */
export const OUT_LENGTH = 4;

/** One level of a format, 0 the leaf level. */
export interface Level {
  /** Lowest input bit that the level's index covers. */
  readonly shift: number;
  /** Index bits. */
  readonly bits: number;
  /** An entry of this level can map a page of 2^shift bytes. */
  readonly leaf: boolean;
}

/** What a configured table can say of itself. */
export interface Description {
  /** `x86-64`, `vtd-second-stage`, `amd-v1`, `arm-stage-1`, `riscv-sv48`, … */
  readonly format: string;
  /** Specification, version and section. */
  readonly specification: string;
  /** From the leaf level up. */
  readonly levels: readonly Level[];
  readonly inputBits: number;
  /** Whether the top half of the input is the sign extension of its highest bit. */
  readonly canonical: boolean;
  /** The input is the top 2^inputBits of 64 bits, not the bottom (Arm's TTB1). */
  readonly upper?: boolean;
  readonly outputBits: number;
  /** lg2 of every size that one mapping can have, ascending; contiguous hints and NAPOT included. */
  readonly pageLg2s: readonly number[];
  /** Permissions that a mapping can have (READ, WRITE, EXECUTE); `map` takes no other. */
  readonly permissions: readonly number[];
  /** Entry bits by name, as [lowest, highest]. */
  readonly fields: Readonly<Record<string, readonly [number, number]>>;
}

/** Same meaning as RunVisitor of src/target/target.ts: answers false to end. */
export type TableVisitor = (iova: number, output: number, pages: number, permission: number) => boolean;

/**
 * Receives a piece of a table, within one page of 4 KiB, before its entries are read: `entries` entries in the `bytes` bytes from byte `address` on
 * translate [first, last] (page frame numbers), in equal parts and ascending.
 */
export type TableReader = (address: number, bytes: number, entries: number, first: number, last: number) => void;

/** One table: a format, its configuration, a root, and the memory that it lies in. */
export interface PageTable {
  readonly description: Description;
  readonly out: Int32Array;
  /**
   * Translates one access (wish bits: src/memory/access.ts). Returns lg2 of the page that holds it, the full output address
   * in `out`; or a fault code. Sets accessed and dirty bits where the architecture does. Reads each entry once. Allocates nothing.
   */
  walk(hi: number, lo: number, access: number): number;
  /**
   * Visits what [first, last] (page frame numbers) maps for unprivileged accesses, in ascending runs that cannot be merged
   * further. Malformed entries count as absent. Reads at most `budget` entries; returns the first page not examined (after
   * the last run visited, when `visit` ended it), last + 1 when all was. A budget of one entry a level makes progress.
   */
  enumerate(first: number, last: number, visit: TableVisitor, budget: number): number;
  /**
   * Maps `pages` pages from `iova` to `output` with the largest sizes that alignment and format allow, splitting nothing: a
   * page that is mapped already stays and is an error. Returns the pages done: fewer than asked when one was mapped already
   * (EEXIST), memory for tables ran out, or the rest is wider than the format's input or output. Needs an allocator.
   * @throws RangeError for a permission that the format cannot express, or pages not aligned to its smallest page
   */
  map(iova: number, output: number, pages: number, permission: number): number;
  /**
   * Unmaps what is mapped in the range, splitting larger pages at its ends and freeing tables that it empties. Returns the
   * pages that were mapped, or -1 when there was no memory for a split: then all that was mapped still is.
   */
  unmap(iova: number, pages: number): number;
}
