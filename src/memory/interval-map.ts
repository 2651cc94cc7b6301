import { PFN_LIMIT } from './address.ts';

/**
 * A B+tree in typed arrays. A tree of objects costs an allocation a mapping and a cache miss a level; here a node's keys lie
 * side by side, and nothing is allocated once the pools have grown to the number of intervals in use.
 *
 * A node is an index into the pools and has room for NODE entries: `keys` ascending, unused ones Infinity so that a search
 * need not know the count, and `refs`: slots of intervals in a leaf, nodes above. A key above the leaves is the smallest
 * key below it, exactly; so an interval that holds a page is never in a leaf before the one that the search ends in.
 */
const NODE_LG2 = 6;
const NODE = 1 << NODE_LG2;
/** A node with fewer entries is joined with a neighbour, or filled from it. */
const NODE_MIN = NODE / 4;
/** Joining stops short of a full node, or the next insertion would split it again. */
const JOIN_MAX = (NODE * 3) / 4;
/** 16^8 intervals are more than an int32 slot can name. */
const MAX_HEIGHT = 9;

/** A slot's four numbers in `#records`. Side by side: one cache line answers a lookup. */
const FIRST = 0;
const PAGES = 1;
const VALUE = 2;
const PERMISSION = 3;

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
  #height = 0;
  #root = 0;
  #keys = new Float64Array(NODE).fill(Infinity);
  #refs = new Int32Array(NODE);
  #counts = new Int32Array(1);
  /** The leaf to the right, -1 for none; of a free node, the next free one. */
  #next = new Int32Array(1).fill(-1);
  #nodes = 1;
  #freeNode = -1;
  #records = new Float64Array(4 * NODE);
  #slots = 0;
  /** Free slots are linked through FIRST. */
  #freeSlot = -1;
  /** The nodes that the last `#descend` came through, by level (0: the leaf), and the entry taken in each. */
  readonly #pathNode = new Int32Array(MAX_HEIGHT);
  readonly #pathAt = new Int32Array(MAX_HEIGHT);

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
    const entry = this.#floor(pfn);
    if (entry < 0) return -1;
    const slot = this.#refs[entry];
    return pfn < this.#endOf(slot) ? slot : -1;
  }

  /** Slot of the first interval that ends above the page, or -1. */
  seek(pfn: number): number {
    let entry = this.#floor(pfn);
    if (entry < 0 || this.#endOf(this.#refs[entry]) <= pfn) entry = this.#after(entry);
    return entry < 0 ? -1 : this.#refs[entry];
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
    const leaf = this.#descend(first);
    const at = this.#pathAt[0];
    if (at >= 0 && this.#endOf(this.#refs[leaf * NODE + at]) > first) return INTERVAL_OVERLAP;
    const after = at < 0 ? (this.#size > 0 ? 0 : -1) : this.#after(leaf * NODE + at);
    if (after >= 0 && this.#keys[after] < end) return INTERVAL_OVERLAP;
    if (this.#size === this.limit) return INTERVAL_FULL;
    const slot = this.#newSlot(first, pages, value, permission);
    this.#insertEntry(at + 1, first, slot);
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
    const leaf = this.#descend(first);
    const at = this.#pathAt[0];
    let removed = 0;
    if (at >= 0) {
      const slot = this.#refs[leaf * NODE + at];
      const start = this.firstOf(slot);
      const stop = this.#endOf(slot);
      if (start < first && first < stop) {
        if (end < stop) {
          if (this.#size === this.limit) return INTERVAL_FULL;
          const right = this.#newSlot(end, stop - end, this.valueOf(slot) + (end - start), this.permissionOf(slot));
          this.#records[4 * slot + PAGES] = first - start;
          this.#insertEntry(at + 1, end, right);
          return pages;
        }
        this.#records[4 * slot + PAGES] = first - start;
        removed = stop - first;
      }
    }
    for (let more = 1; more > 0; removed += more) more = this.#removeFromLeaf(first, end);
    return removed;
  }

  clear(): void {
    this.#size = 0;
    this.#height = 0;
    this.#root = 0;
    this.#nodes = 1;
    this.#freeNode = -1;
    this.#slots = 0;
    this.#freeSlot = -1;
    this.#counts[0] = 0;
    this.#next[0] = -1;
    this.#keys.fill(Infinity, 0, NODE);
  }

  /** Visits the intervals that touch [first, last], whole, ascending. Returns the first page not examined, last + 1 when all was. */
  intervals(first: number, last: number, visit: IntervalVisitor): number {
    for (let entry = this.#entryFrom(first); entry >= 0 && this.#keys[entry] <= last; entry = this.#after(entry)) {
      const slot = this.#refs[entry];
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
    for (let entry = this.#entryFrom(first); entry >= 0 && this.#keys[entry] <= last; entry = this.#after(entry)) {
      const slot = this.#refs[entry];
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

  /** Index in `keys` and `refs` of the last leaf entry at or below a page; negative: there is none. */
  #floor(pfn: number): number {
    const keys = this.#keys;
    const refs = this.#refs;
    let node = this.#root;
    for (let level = this.#height; level > 0; level--) {
      const at = lastAtOrBelow(keys, node * NODE, pfn);
      node = refs[at < node * NODE ? node * NODE : at];
    }
    const at = lastAtOrBelow(keys, node * NODE, pfn);
    return at < node * NODE ? -1 : at;
  }

  /** The leaf entry to the right; after a negative one, the first. Joining goes from right to left, so the first leaf is always node 0. */
  #after(entry: number): number {
    if (entry < 0) return this.#size > 0 ? 0 : -1;
    const leaf = entry >>> NODE_LG2;
    if (entry + 1 - leaf * NODE < this.#counts[leaf]) return entry + 1;
    const next = this.#next[leaf];
    return next < 0 ? -1 : next * NODE;
  }

  /** The first leaf entry whose interval ends above a page. */
  #entryFrom(pfn: number): number {
    const entry = this.#floor(pfn);
    return entry >= 0 && this.#endOf(this.#refs[entry]) > pfn ? entry : this.#after(entry);
  }

  /** As `#floor`, and leaves the way there in the path. Returns the leaf; the entry is `#pathAt[0]`, -1 for none. */
  #descend(pfn: number): number {
    const keys = this.#keys;
    let node = this.#root;
    for (let level = this.#height; level > 0; level--) {
      const at = Math.max(lastAtOrBelow(keys, node * NODE, pfn), node * NODE);
      this.#pathNode[level] = node;
      this.#pathAt[level] = at - node * NODE;
      node = this.#refs[at];
    }
    this.#pathNode[0] = node;
    this.#pathAt[0] = lastAtOrBelow(keys, node * NODE, pfn) - node * NODE;
    return node;
  }

  /** Puts an entry at place `at` of the path's leaf; full nodes are split on the way up. */
  #insertEntry(at: number, key: number, ref: number): void {
    for (let level = 0; ; level++) {
      const node = this.#pathNode[level];
      if (this.#counts[node] < NODE) {
        this.#put(node, at, key, ref);
        if (at === 0) this.#lowestKey(level, key);
        return;
      }
      const right = this.#newNode();
      // Ascending insertions, a guest's favourite, leave full leaves behind instead of half-full ones.
      const append = level === 0 && at === NODE && this.#next[node] < 0;
      const keep = append ? NODE : NODE / 2;
      this.#move(node, keep, right);
      this.#next[right] = this.#next[node];
      this.#next[node] = right;
      if (append || at > keep) this.#put(right, at - keep, key, ref);
      else this.#put(node, at, key, ref);
      if (at === 0) this.#lowestKey(level, key);
      if (level === this.#height) {
        const root = this.#newNode();
        this.#put(root, 0, this.#keys[node * NODE], node);
        this.#put(root, 1, this.#keys[right * NODE], right);
        this.#root = root;
        this.#height = level + 1;
        return;
      }
      at = this.#pathAt[level + 1] + 1;
      key = this.#keys[right * NODE];
      ref = right;
    }
  }

  /** Removes what of [first, end) begins in one leaf. Returns the pages removed; 0: nothing is left to remove. */
  #removeFromLeaf(first: number, end: number): number {
    let leaf = this.#descend(first);
    let at = this.#pathAt[0];
    if (at < 0 || this.#keys[leaf * NODE + at] < first) {
      const entry = this.#after(leaf * NODE + at);
      if (entry < 0 || this.#keys[entry] >= end) return 0;
      leaf = this.#descend(this.#keys[entry]);
      at = this.#pathAt[0];
    }
    const records = this.#records;
    const count = this.#counts[leaf];
    let removed = 0;
    let stop = at;
    for (; stop < count && this.#keys[leaf * NODE + stop] < end; stop++) {
      const slot = this.#refs[leaf * NODE + stop];
      const cut = end - records[4 * slot + FIRST];
      if (records[4 * slot + PAGES] > cut) {
        records[4 * slot + FIRST] = end;
        records[4 * slot + PAGES] -= cut;
        records[4 * slot + VALUE] += cut;
        removed += cut;
        this.#keys[leaf * NODE + stop] = end;
        if (stop === 0) this.#lowestKey(0, end);
        break;
      }
      removed += records[4 * slot + PAGES];
      this.#dropSlot(slot);
    }
    if (stop > at) {
      this.#take(leaf, at, stop - at);
      if (at === 0 && this.#counts[leaf] > 0) this.#lowestKey(0, this.#keys[leaf * NODE]);
      this.#rebalance();
    }
    return removed;
  }

  /** Joins nodes of the path that have become small with a neighbour, or fills them from it. */
  #rebalance(): void {
    const counts = this.#counts;
    for (let level = 0; level < this.#height; level++) {
      const node = this.#pathNode[level];
      if (counts[node] >= NODE_MIN) return;
      const parent = this.#pathNode[level + 1];
      const at = Math.max(this.#pathAt[level + 1] - 1, 0);
      const left = this.#refs[parent * NODE + at];
      const right = this.#refs[parent * NODE + at + 1];
      const total = counts[left] + counts[right];
      if (total <= JOIN_MAX) {
        this.#move(right, 0, left);
        this.#next[left] = this.#next[right];
        this.#dropNode(right);
        this.#take(parent, at + 1, 1);
      } else {
        this.#level(left, right, total >>> 1);
        this.#keys[parent * NODE + at + 1] = this.#keys[right * NODE];
      }
      if (node === left) this.#lowestKey(level, this.#keys[left * NODE]);
    }
    while (this.#height > 0 && counts[this.#root] === 1) {
      const root = this.#root;
      this.#root = this.#refs[root * NODE];
      this.#height--;
      this.#dropNode(root);
    }
  }

  /** Moves entries between neighbours until the left one has `keep`. */
  #level(left: number, right: number, keep: number): void {
    const counts = this.#counts;
    if (counts[left] > keep) {
      const moved = counts[left] - keep;
      this.#open(right, 0, moved);
      this.#copy(left, keep, right, 0, moved);
      this.#take(left, keep, moved);
    } else {
      const moved = keep - counts[left];
      this.#copy(right, 0, left, counts[left], moved);
      counts[left] = keep;
      this.#take(right, 0, moved);
    }
  }

  /** The node of the path at `level` begins with `key` now: says so to the nodes above. */
  #lowestKey(level: number, key: number): void {
    for (let above = level + 1; above <= this.#height; above++) {
      const at = this.#pathAt[above];
      this.#keys[this.#pathNode[above] * NODE + at] = key;
      if (at > 0) return;
    }
  }

  /** Appends the entries of `from` at `at` and after to `to`. */
  #move(from: number, at: number, to: number): void {
    const moved = this.#counts[from] - at;
    this.#copy(from, at, to, this.#counts[to], moved);
    this.#counts[to] += moved;
    this.#take(from, at, moved);
  }

  #copy(from: number, at: number, to: number, place: number, count: number): void {
    for (let i = 0; i < count; i++) {
      this.#keys[to * NODE + place + i] = this.#keys[from * NODE + at + i];
      this.#refs[to * NODE + place + i] = this.#refs[from * NODE + at + i];
    }
  }

  /** Makes room for `count` entries at `at`. */
  #open(node: number, at: number, count: number): void {
    const keys = this.#keys;
    const refs = this.#refs;
    const start = node * NODE + at;
    for (let i = node * NODE + this.#counts[node] - 1; i >= start; i--) {
      keys[i + count] = keys[i];
      refs[i + count] = refs[i];
    }
    this.#counts[node] += count;
  }

  #put(node: number, at: number, key: number, ref: number): void {
    this.#open(node, at, 1);
    this.#keys[node * NODE + at] = key;
    this.#refs[node * NODE + at] = ref;
  }

  /** Takes `count` entries out at `at`. */
  #take(node: number, at: number, count: number): void {
    const keys = this.#keys;
    const refs = this.#refs;
    const end = node * NODE + this.#counts[node];
    let to = node * NODE + at;
    for (let i = to + count; i < end; i++, to++) {
      keys[to] = keys[i];
      refs[to] = refs[i];
    }
    for (; to < end; to++) keys[to] = Infinity;
    this.#counts[node] -= count;
  }

  #newNode(): number {
    let node = this.#freeNode;
    if (node >= 0) this.#freeNode = this.#next[node];
    else {
      node = this.#nodes++;
      if (node === this.#counts.length) {
        this.#keys = grown(this.#keys, new Float64Array(2 * NODE * node));
        this.#refs = grown(this.#refs, new Int32Array(2 * NODE * node));
        this.#counts = grown(this.#counts, new Int32Array(2 * node));
        this.#next = grown(this.#next, new Int32Array(2 * node));
      }
    }
    this.#counts[node] = 0;
    this.#next[node] = -1;
    this.#keys.fill(Infinity, node * NODE, (node + 1) * NODE);
    return node;
  }

  #dropNode(node: number): void {
    this.#next[node] = this.#freeNode;
    this.#freeNode = node;
  }

  #newSlot(first: number, pages: number, value: number, permission: number): number {
    let slot = this.#freeSlot;
    if (slot >= 0) this.#freeSlot = this.#records[4 * slot + FIRST];
    else {
      slot = this.#slots++;
      if (4 * slot === this.#records.length) this.#records = grown(this.#records, new Float64Array(8 * slot));
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

/**
 * Index of the last of a node's keys that is at or below `key`; base - 1: none. Counts keys without a branch, first every
 * eighth, then the eight between: a binary search costs a misprediction every other step, more than the comparisons saved.
 */
function lastAtOrBelow(keys: Float64Array, base: number, key: number): number {
  const first = one(keys[base + 8] <= key) + one(keys[base + 16] <= key) + one(keys[base + 24] <= key) + one(keys[base + 32] <= key);
  const eighths = first + one(keys[base + 40] <= key) + one(keys[base + 48] <= key) + one(keys[base + 56] <= key);
  const at = base + (eighths << 3);
  const low = one(keys[at] <= key) + one(keys[at + 1] <= key) + one(keys[at + 2] <= key) + one(keys[at + 3] <= key);
  const high = one(keys[at + 4] <= key) + one(keys[at + 5] <= key) + one(keys[at + 6] <= key) + one(keys[at + 7] <= key);
  return at + low + high - 1;
}

function noRange(first: number, end: number): RangeError {
  return new RangeError(`IntervalMap: [${first}, ${end}) is no range of pages`);
}

/** 1 for true: the compiler has a boolean as 0 or 1, and this is no instruction to it. */
function one(condition: boolean): number {
  return (condition as unknown as number) | 0;
}

function grown<T extends Float64Array | Int32Array>(from: T, to: T): T {
  to.set(from);
  return to;
}
