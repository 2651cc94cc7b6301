import { hiOfPfn, loOfPfn, PAGE_BYTES } from '../../memory/address.ts';
import type { GuestMemory } from '../../memory/guest-memory.ts';
import { get, isSet } from '../fields.ts';
import { ENTRY_BUDGET, type TableSpace } from './spaces.ts';
import { TABLE_ENTRY } from './spec/anchor.ts';
import { PEC } from './spec/codes.ts';

const FULL_LENGTH = 3;
/** PAGE_ENTRY.INVALID and ZERO, for the compiler folds a module's own constants only; most of what is read are page table entries. */
const PAGE_INVALID = 1 << 10;
const PAGE_ZERO = 1 << 11;
/** For the test that compares them with their declarations. */
export const REPEATED = { PAGE_INVALID, PAGE_ZERO } as const;
/** By level: pages that an entry is for. */
const ENTRY_PAGES = [1, 2 ** 8, 2 ** 19, 2 ** 30, 2 ** 41] as const;
/** Highest level whose entries can map frames: 2 GiB. */
const FRAME_LEVELS = 2;

/**
 * What is wrong with a function's tables: RPCIT and failed accesses ask. A walk tells that an entry is malformed, error events tell how.
 * The order is QEMU's (table_translate of hw/s390x/s390-pci-bus.c): zero, invalid, length, type.
 */
export class TableCheck {
  /** Page that the malformed entry is for, after `find` found one. */
  at = 0;
  /** First page that `find` did not come to; behind the range, where it came to all of it. */
  reached = 0;
  readonly #memory: GuestMemory;
  #left = 0;

  constructor(memory: GuestMemory) {
    this.#memory = memory;
  }

  /** The PEC of the first malformed entry on the way to [first, last], or 0: none in the first ENTRY_BUDGET entries. */
  find(space: TableSpace, first: number, last: number): number {
    this.#left = ENTRY_BUDGET;
    this.reached = last + 1;
    return first > last ? 0 : this.#scan(space.top, space.origin * PAGE_BYTES, 0, first, last);
  }

  #scan(level: number, table: number, base: number, first: number, last: number): number {
    if (level === 0) return this.#scanPages(table + 8 * (first - base), first, last);
    const pages = ENTRY_PAGES[level]!;
    const end = Math.floor((last - base) / pages);
    for (let index = Math.floor((first - base) / pages); index <= end; index++) {
      const start = base + index * pages;
      if (this.#left === 0) {
        this.reached = Math.min(this.reached, Math.max(first, start));
        return 0;
      }
      this.#left--;
      this.at = Math.max(first, start);
      const code = this.#entry(level, table + 8 * index, start, first, last);
      if (code !== 0) return code;
    }
    return 0;
  }

  /** Entries of one page table, the first of them at `address`. */
  #scanPages(address: number, first: number, last: number): number {
    const memory = this.#memory;
    const { word } = memory;
    const hi = (address / 2 ** 32) | 0;
    const lo = address | 0;
    const count = Math.min(last - first + 1, this.#left);
    this.#left -= count;
    if (count <= last - first) this.reached = Math.min(this.reached, first + count);
    for (let i = 0; i < count; i++) {
      const isMissing = memory.load64BE(hi, lo + 8 * i) < 0 || (word[0] | word[1]) === 0;
      if (!isMissing && (word[0] & (PAGE_INVALID | PAGE_ZERO)) !== PAGE_ZERO) continue;
      this.at = first + i;
      return PEC.tableEntry;
    }
    return 0;
  }

  /** Of a region or segment table. */
  #entry(level: number, address: number, start: number, first: number, last: number): number {
    const { word } = this.#memory;
    const pfn = Math.floor(address / PAGE_BYTES);
    if (this.#memory.load64BE(hiOfPfn(pfn), loOfPfn(pfn) | (address % PAGE_BYTES)) < 0) return PEC.tableEntry;
    if ((word[0] | word[1]) === 0) return PEC.tableEntry;
    if (isSet(word, TABLE_ENTRY.INVALID)) return 0;
    const rightType = get(word, TABLE_ENTRY.TYPE) === level - 1;
    if (rightType && level <= FRAME_LEVELS && isSet(word, TABLE_ENTRY.FORMAT_CONTROL)) return 0;
    const whole = get(word, TABLE_ENTRY.LENGTH) === FULL_LENGTH && !isSet(word, TABLE_ENTRY.OFFSET);
    if (level > 1 && !whole) return PEC.tableLength;
    if (!rightType) return PEC.tableType;
    const origin = (word[1] >>> 0) * 2 ** 32 + ((word[0] & (level > 1 ? -(1 << 14) : -(1 << 11))) >>> 0);
    return this.#scan(level - 1, origin, start, Math.max(first, start), Math.min(last, start + ENTRY_PAGES[level]! - 1));
  }
}
