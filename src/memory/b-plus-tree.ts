import { doubled } from './doubled.ts';

/**
 * A B+tree in typed arrays. A tree of objects costs an allocation an entry and a cache miss a level; here a node's keys lie
 * side by side, and nothing is allocated once the pools have grown to the number of entries in use.
 *
 * A node is an index into the pools and has room for NODE entries: `keys` ascending, unused ones Infinity so that a search
 * need not know the count, and `refs`: the caller's in a leaf, nodes above. A key above the leaves is the smallest
 * key below it, exactly; so the entry at or below a key is never in a leaf before the one that the search ends in.
 */
const NODE_LG2 = 6;
const NODE = 1 << NODE_LG2;
/** A node with fewer entries is joined with a neighbour, or filled from it. */
const NODE_MIN = NODE / 4;
/** Joining stops short of a full node, or the next insertion would split it again. */
const JOIN_MAX = (NODE * 3) / 4;
/** 16^8 entries are more than an int32 can name. */
const MAX_HEIGHT = 9;

/**
 * The nodes that the last `descend` came through, by level (0: the leaf), and the entry taken in each. Of all trees, since nothing comes between it
 * and the change that it was made for: most trees are small, and what each has of its own is in no near cache.
 */
const pathNode = new Int32Array(MAX_HEIGHT);
const pathAt = new Int32Array(MAX_HEIGHT);

/**
 * Numbers in order, each with an int32. An entry is an index into `keys` and `refs`, good until the tree changes; -1: there is none.
 * What changes the tree does it where the last `descend`, of any tree, ended.
 */
export class BPlusTree {
  /** By entry. Others' to read, and anew after each insertion: both grow. */
  keys: Float64Array = new Float64Array(NODE).fill(Infinity);
  refs: Int32Array = new Int32Array(NODE);
  #height = 0;
  #root = 0;
  #counts: Int32Array = new Int32Array(1);
  /** The leaf to the right, -1 for none; of a free node, the next free one. */
  #next: Int32Array = new Int32Array(1).fill(-1);
  #nodes = 1;
  #freeNode = -1;

  clear(): void {
    this.#height = 0;
    this.#root = 0;
    this.#nodes = 1;
    this.#freeNode = -1;
    this.#counts[0] = 0;
    this.#next[0] = -1;
    this.keys.fill(Infinity, 0, NODE);
  }

  /** The last entry at or below a key. */
  floor(key: number): number {
    const keys = this.keys;
    const refs = this.refs;
    let node = this.#root;
    for (let level = this.#height; level > 0; level--) {
      const at = lastAtOrBelow(keys, node * NODE, key);
      node = refs[at < node * NODE ? node * NODE : at];
    }
    const at = lastAtOrBelow(keys, node * NODE, key);
    return at < node * NODE ? -1 : at;
  }

  /** The entry to the right; after -1, the first. Joining goes from right to left, so the first leaf is always node 0. */
  after(entry: number): number {
    if (entry < 0) return this.#counts[0] > 0 ? 0 : -1;
    const leaf = entry >>> NODE_LG2;
    if (entry + 1 - leaf * NODE < this.#counts[leaf]) return entry + 1;
    const next = this.#next[leaf];
    return next < 0 ? -1 : next * NODE;
  }

  /** As `floor`, and leaves the way there in the path. */
  descend(key: number): number {
    const keys = this.keys;
    let node = this.#root;
    for (let level = this.#height; level > 0; level--) {
      const at = Math.max(lastAtOrBelow(keys, node * NODE, key), node * NODE);
      pathNode[level] = node;
      pathAt[level] = at - node * NODE;
      node = this.refs[at];
    }
    const at = lastAtOrBelow(keys, node * NODE, key);
    pathNode[0] = node;
    pathAt[0] = at - node * NODE;
    return at < node * NODE ? -1 : at;
  }

  /** Where the entries of an entry's leaf end. */
  leafEnd(entry: number): number {
    const leaf = entry >>> NODE_LG2;
    return leaf * NODE + this.#counts[leaf];
  }

  /** Adds an entry behind the one where `descend` ended, below all that follow; full nodes are split on the way up. */
  insert(key: number, ref: number): void {
    let at = pathAt[0] + 1;
    for (let level = 0; ; level++) {
      const node = pathNode[level];
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
        this.#put(root, 0, this.keys[node * NODE], node);
        this.#put(root, 1, this.keys[right * NODE], right);
        this.#root = root;
        this.#height = level + 1;
        return;
      }
      at = pathAt[level + 1] + 1;
      key = this.keys[right * NODE];
      ref = right;
    }
  }

  /** Gives an entry of the leaf where `descend` ended another key, still between its neighbours'. */
  rekey(entry: number, key: number): void {
    this.keys[entry] = key;
    if (entry === pathNode[0] * NODE) this.#lowestKey(0, key);
  }

  /** Removes so many entries from the one where `descend` ended on, all in its leaf. */
  remove(count: number): void {
    const leaf = pathNode[0];
    const at = pathAt[0];
    this.#take(leaf, at, count);
    if (at === 0 && this.#counts[leaf] > 0) this.#lowestKey(0, this.keys[leaf * NODE]);
    this.#rebalance();
  }

  /** Joins nodes of the path that have become small with a neighbour, or fills them from it. */
  #rebalance(): void {
    const counts = this.#counts;
    for (let level = 0; level < this.#height; level++) {
      const node = pathNode[level];
      if (counts[node] >= NODE_MIN) return;
      const parent = pathNode[level + 1];
      const at = Math.max(pathAt[level + 1] - 1, 0);
      const left = this.refs[parent * NODE + at];
      const right = this.refs[parent * NODE + at + 1];
      const total = counts[left] + counts[right];
      if (total <= JOIN_MAX) {
        this.#move(right, 0, left);
        this.#next[left] = this.#next[right];
        this.#dropNode(right);
        this.#take(parent, at + 1, 1);
      } else {
        this.#level(left, right, total >>> 1);
        this.keys[parent * NODE + at + 1] = this.keys[right * NODE];
      }
      if (node === left) this.#lowestKey(level, this.keys[left * NODE]);
    }
    while (this.#height > 0 && counts[this.#root] === 1) {
      const root = this.#root;
      this.#root = this.refs[root * NODE];
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
      const at = pathAt[above];
      this.keys[pathNode[above] * NODE + at] = key;
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
      this.keys[to * NODE + place + i] = this.keys[from * NODE + at + i];
      this.refs[to * NODE + place + i] = this.refs[from * NODE + at + i];
    }
  }

  /** Makes room for `count` entries at `at`. */
  #open(node: number, at: number, count: number): void {
    const keys = this.keys;
    const refs = this.refs;
    const start = node * NODE + at;
    for (let i = node * NODE + this.#counts[node] - 1; i >= start; i--) {
      keys[i + count] = keys[i];
      refs[i + count] = refs[i];
    }
    this.#counts[node] += count;
  }

  #put(node: number, at: number, key: number, ref: number): void {
    this.#open(node, at, 1);
    this.keys[node * NODE + at] = key;
    this.refs[node * NODE + at] = ref;
  }

  /** Takes `count` entries out at `at`. */
  #take(node: number, at: number, count: number): void {
    const keys = this.keys;
    const refs = this.refs;
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
        this.keys = doubled(this.keys);
        this.refs = doubled(this.refs);
        this.#counts = doubled(this.#counts);
        this.#next = doubled(this.#next);
      }
    }
    this.#counts[node] = 0;
    this.#next[node] = -1;
    this.keys.fill(Infinity, node * NODE, (node + 1) * NODE);
    return node;
  }

  #dropNode(node: number): void {
    this.#next[node] = this.#freeNode;
    this.#freeNode = node;
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

/** 1 for true: the compiler has a boolean as 0 or 1, and this is no instruction to it. */
function one(condition: boolean): number {
  return (condition as unknown as number) | 0;
}
