import { PFN_LIMIT } from './address.ts';
import { BPlusTree } from './b-plus-tree.ts';
import { doubled } from './doubled.ts';

/** A slot's four numbers in `#records`. Side by side: one cache line answers a lookup. */
const FIRST = 0;
const PAGES = 1;
const VALUE = 2;
const PERMISSION = 3;
/** Room for so many slots to begin with: 64 bytes, which lie where the array's object does. */
const FIRST_SLOTS = 2;

/** The interval would overlap one that is there. Nothing was changed. */
export const INTERVAL_OVERLAP = -1;
/** The map holds as many intervals as it may. Nothing was changed. */
export const INTERVAL_FULL = -2;

/** Same shape as RunVisitor and TableVisitor: answers false to end the enumeration. Must not change the map. */
export type IntervalVisitor = (first: number, value: number, pages: number, permission: number) => boolean;

/**
 * Disjoint intervals of page frame numbers, each mapping its pages to the pages from `value` on with a permission. An interval
 * stays the one that was inserted: neighbours are merged by `runs`, never in the map. A slot names an interval until the last
 * of it is removed; of an interval cut in two, it names the left part.
 *
 * @example
 * const map = new IntervalMap(1000);
 * map.insert(0x10, 4, 0x500, READ) >= 0; // true: pages 0x10 to 0x13 to pages 0x500 and on
 * const slot = map.lookup(0x12);
 * map.valueOf(slot) + 0x12 - map.firstOf(slot); // 0x502
 * map.lookup(0x14) >= 0; // false
 */
export class IntervalMap {
  /** Intervals that the map may hold. */
  readonly limit: number;
  #size = 0;
  /** The first page of each interval, and its slot. */
  readonly #tree = new BPlusTree();
  #records: Float64Array = new Float64Array(4 * FIRST_SLOTS);
  #slots = 0;
  /** Free slots are linked through FIRST. */
  #freeSlot = -1;

  /** @throws RangeError when the limit is not an integer from 1 to 2^28. */
  constructor(limit: number) {
    if (!Number.isInteger(limit) || limit < 1 || limit > 2 ** 28) throw new RangeError(`IntervalMap: limit ${limit} is not in 1..2^28`);
    this.limit = limit;
  }

  /** Intervals in the map. */
  get size(): number {
    return this.#size;
  }

  firstOf(slot: number): number {
    return this.#records[4 * slot + FIRST];
  }
  pagesOf(slot: number): number {
    return this.#records[4 * slot + PAGES];
  }
  /** What the interval's first page maps to. */
  valueOf(slot: number): number {
    return this.#records[4 * slot + VALUE];
  }
  permissionOf(slot: number): number {
    return this.#records[4 * slot + PERMISSION];
  }

  /** Slot of the interval that holds the page, or -1. */
  lookup(pfn: number): number {
    const tree = this.#tree;
    const entry = tree.floor(pfn);
    if (entry < 0) return -1;
    const slot = tree.refs[entry];
    return pfn < this.#endOf(slot) ? slot : -1;
  }

  /** Slot of the first interval that ends above the page, or -1. */
  seek(pfn: number): number {
    const entry = this.#entryFrom(pfn);
    return entry < 0 ? -1 : this.#tree.refs[entry];
  }

  /**
   * Adds [first, first + pages). Returns its slot, INTERVAL_OVERLAP or INTERVAL_FULL.
   * @throws RangeError when the interval is empty, not of whole pages or leaves the address space, when the value is no integer or the permission no int32.
   */
  insert(first: number, pages: number, value: number, permission: number): number {
    const end = first + pages;
    if (!(first >= 0 && pages >= 1 && end <= PFN_LIMIT && Number.isInteger(first) && Number.isInteger(pages))) throw noRange(first, end);
    if (!Number.isInteger(value) || (permission | 0) !== permission)
      throw new RangeError(`IntervalMap: value ${value} or permission ${permission} is no integer, or more than an int32`);
    const tree = this.#tree;
    const entry = tree.descend(first);
    if (entry >= 0 && this.#endOf(tree.refs[entry]) > first) return INTERVAL_OVERLAP;
    const after = tree.after(entry);
    if (after >= 0 && tree.keys[after] < end) return INTERVAL_OVERLAP;
    if (this.#size === this.limit) return INTERVAL_FULL;
    const slot = this.#newSlot(first, pages, value, permission);
    tree.insert(first, slot);
    return slot;
  }

  /**
   * Takes away whatever lies in [first, first + pages); what sticks out of the range stays, the part to the right as an
   * interval of its own, with the value that belongs to its first page. Returns the pages that were mapped; INTERVAL_FULL
   * when a hole would leave one interval more than the limit.
   * @throws RangeError when it is no range of pages; an empty one is.
   */
  remove(first: number, pages: number): number {
    const end = first + pages;
    if (!(first >= 0 && pages >= 0 && end <= PFN_LIMIT && Number.isInteger(first) && Number.isInteger(pages))) throw noRange(first, end);
    const tree = this.#tree;
    let entry = tree.descend(first);
    let removed = 0;
    if (entry >= 0) {
      const slot = tree.refs[entry];
      const start = this.firstOf(slot);
      const stop = this.#endOf(slot);
      if (start < first && first < stop) {
        if (end < stop) {
          if (this.#size === this.limit) return INTERVAL_FULL;
          const right = this.#newSlot(end, stop - end, this.valueOf(slot) + (end - start), this.permissionOf(slot));
          this.#records[4 * slot + PAGES] = first - start;
          tree.insert(end, right);
          return pages;
        }
        this.#records[4 * slot + PAGES] = first - start;
        removed = stop - first;
      }
    }
    for (; ; entry = tree.descend(first)) {
      if (entry < 0 || tree.keys[entry] < first) {
        entry = tree.after(entry);
        if (entry >= 0) tree.descend(tree.keys[entry]);
      }
      if (entry < 0 || tree.keys[entry] >= end) return removed;
      removed += this.#removeFrom(entry, end);
    }
  }

  clear(): void {
    this.#size = 0;
    this.#tree.clear();
    this.#slots = 0;
    this.#freeSlot = -1;
  }

  /** Visits the intervals that touch [first, last], whole, ascending. Returns the first page not examined, last + 1 when all was. */
  intervals(first: number, last: number, visit: IntervalVisitor): number {
    const tree = this.#tree;
    for (let entry = this.#entryFrom(first); entry >= 0 && tree.keys[entry] <= last; entry = tree.after(entry)) {
      const slot = tree.refs[entry];
      const pages = this.pagesOf(slot);
      if (!visit(this.firstOf(slot), this.valueOf(slot), pages, this.permissionOf(slot))) {
        return Math.min(this.firstOf(slot) + pages, last + 1);
      }
    }
    return last + 1;
  }

  /**
   * Visits what [first, last] maps: clipped to the range, ascending, intervals that continue each other in page, value and
   * permission as one. Returns the first page not examined, last + 1 when all was.
   */
  runs(first: number, last: number, visit: IntervalVisitor): number {
    let start = 0;
    let end = -1;
    let value = 0;
    let permission = 0;
    const tree = this.#tree;
    for (let entry = this.#entryFrom(first); entry >= 0 && tree.keys[entry] <= last; entry = tree.after(entry)) {
      const slot = tree.refs[entry];
      const from = Math.max(this.firstOf(slot), first);
      const to = Math.min(this.#endOf(slot), last + 1);
      const target = this.valueOf(slot) + (from - this.firstOf(slot));
      if (from !== end || target !== value + (end - start) || this.permissionOf(slot) !== permission) {
        if (end >= 0 && !visit(start, value, end - start, permission)) return end;
        start = from;
        value = target;
        permission = this.permissionOf(slot);
      }
      end = to;
    }
    if (end >= 0 && !visit(start, value, end - start, permission)) return end;
    return last + 1;
  }

  #endOf(slot: number): number {
    return this.#records[4 * slot + FIRST] + this.#records[4 * slot + PAGES];
  }

  /** The tree's first entry whose interval ends above a page. */
  #entryFrom(pfn: number): number {
    const tree = this.#tree;
    const entry = tree.floor(pfn);
    return entry >= 0 && this.#endOf(tree.refs[entry]) > pfn ? entry : tree.after(entry);
  }

  /** Removes what begins below `end` from the entry on where the tree's `descend` ended, in its leaf. Returns the pages removed. */
  #removeFrom(entry: number, end: number): number {
    const tree = this.#tree;
    const records = this.#records;
    const leafEnd = tree.leafEnd(entry);
    let removed = 0;
    let stop = entry;
    for (; stop < leafEnd && tree.keys[stop] < end; stop++) {
      const slot = tree.refs[stop];
      const cut = end - records[4 * slot + FIRST];
      if (records[4 * slot + PAGES] > cut) {
        records[4 * slot + FIRST] = end;
        records[4 * slot + PAGES] -= cut;
        records[4 * slot + VALUE] += cut;
        removed += cut;
        tree.rekey(stop, end);
        break;
      }
      removed += records[4 * slot + PAGES];
      this.#dropSlot(slot);
    }
    if (stop > entry) tree.remove(stop - entry);
    return removed;
  }

  #newSlot(first: number, pages: number, value: number, permission: number): number {
    let slot = this.#freeSlot;
    if (slot >= 0) this.#freeSlot = this.#records[4 * slot + FIRST];
    else {
      slot = this.#slots++;
      if (4 * slot === this.#records.length) this.#records = doubled(this.#records);
    }
    const records = this.#records;
    records[4 * slot + FIRST] = first;
    records[4 * slot + PAGES] = pages;
    records[4 * slot + VALUE] = value;
    records[4 * slot + PERMISSION] = permission;
    this.#size++;
    return slot;
  }

  #dropSlot(slot: number): void {
    this.#records[4 * slot + FIRST] = this.#freeSlot;
    this.#freeSlot = slot;
    this.#size--;
  }
}

function noRange(first: number, end: number): RangeError {
  return new RangeError(`IntervalMap: [${first}, ${end}) is no range of pages`);
}
