import { PAGE_LG2, PFN_LIMIT } from './address.ts';

/**
 * A translation cache for every target: one concrete class, because a call site that sees several shapes costs more than the lookup.
 *
 * Two tags name the tables that a translation comes from, whatever the architecture calls them; invalidation commands select by them:
 *
 * | architecture         | space                | context    | commands select by                                          |
 * |----------------------|----------------------|------------|-------------------------------------------------------------|
 * | VT-d, 6.5.2          | domain ID            | PASID      | domain; domain, address; domain, PASID; all three           |
 * | AMD IOMMU, 2.4       | domain ID            | PASID      | domain, address; domain, PASID, address; all                |
 * | SMMUv3, 4.4          | VMID, StreamWorld    | ASID       | VMID; VMID, ASID; VMID, address; all three; everything      |
 * | RISC-V IOTINVAL      | GSCID                | PSCID      | GSCID; GSCID, PSCID; GSCID, address; all three; everything  |
 * | virtio-iommu; sPAPR  | domain; LIOBN        | NO_CONTEXT | domain, address; domain                                     |
 *
 * Where a command selects an address in every context of a space, the space is invalidated: a cache may always forget more.
 *
 * A translation lies in one of WAYS neighbouring places, the first of which its page number gives; so pages in a row stand
 * in a row, and a hit is nearly always in the first place looked at.
 */
const WAYS = 4;

/** Ints of an entry; half a cache line. */
const ENTRY_LG2 = 3;
/** Low 32 bits of address >> lg2. */
const KEY_LO = 0;
/** The rest of it (20 bits), and lg2 from bit 24 on. Never 0 in an entry that was filled. */
const KEY_HI = 1;
const SPACE = 2;
const CONTEXT = 3;
/** What `#stampOf` said of the tags when the entry was filled: another number since, and the entry is no longer valid. */
const STAMP = 4;
/** Input XOR output address, so that one XOR translates whatever the page's size is. */
const DELTA_LO = 5;
const DELTA_HI = 6;
/** Permission in bits 7:0, the walker's memory type above. */
const INFO = 7;

/** `out`, as in src/pagetable/page-table.ts. */
const OUT_LO = 0;
const OUT_HI = 1;
const OUT_PERMISSION = 2;
const OUT_TYPE = 3;

/** Generations kept. Tags that share one are invalidated together: never too little. */
const SPACES = 1024;
const CONTEXTS = 4096;
/** An address range of more pages than this of one size invalidates the context instead: work per command is bounded. */
const RANGE_PAGES = 4096;
/** Stamps are int32 sums of counters: before they could come round, the cache is emptied. */
const STAMPS = 2 ** 31;

/** The context of translations that have none. */
export const NO_CONTEXT = -1;

export class Iotlb {
  /** Translations that it holds at most. */
  readonly capacity: number;
  /** Where `lookup` leaves its result, as a walker does: OUT_LO, OUT_HI, OUT_PERMISSION and OUT_TYPE of src/pagetable/page-table.ts. */
  readonly out = new Int32Array(4);
  readonly #entries: Int32Array;
  readonly #lg2: number;
  readonly #foldLg2: number;
  readonly #mask: number;
  readonly #spaces = new Int32Array(SPACES);
  readonly #contexts = new Int32Array(CONTEXTS);
  #all = 0;
  #bumps = 0;
  /** lg2 of the page sizes that may be in the cache; the one that was hit last comes first. Never 0 there: no empty entry matches. */
  readonly #sizes = new Int32Array(64).fill(PAGE_LG2);
  #sizeCount = 0;
  #victim = 0;
  /** 1: a global translation of the space may be in the cache. */
  readonly #globals = new Uint8Array(SPACES);

  /** @throws RangeError when the capacity is not a power of two from 16 to 2^24. */
  constructor(capacity: number) {
    const lg2 = 31 - Math.clz32(capacity);
    if (capacity !== 2 ** lg2 || lg2 < 4 || lg2 > 24) throw new RangeError(`Iotlb: capacity ${capacity} is not a power of two in 16..2^24`);
    this.capacity = capacity;
    this.#lg2 = lg2;
    this.#foldLg2 = Math.min(2 * lg2, 31);
    this.#mask = capacity - 1;
    this.#entries = new Int32Array(capacity << ENTRY_LG2);
  }

  /**
   * Translates an access that wants the bits `wish` of the permission: returns lg2 of the page as it was filled, the full
   * output address in `out`. -1: not cached, or not with this permission, and the tables must be walked.
   */
  lookup(space: number, context: number, hi: number, lo: number, wish: number): number {
    const entries = this.#entries;
    const lg2 = this.#sizes[0];
    const low = keyLo(hi, lo, lg2);
    const high = keyHi(hi, lg2);
    const at = this.#home(space, context, high, low) << ENTRY_LG2;
    if (
      entries[at + KEY_LO] === low &&
      entries[at + KEY_HI] === high &&
      entries[at + SPACE] === space &&
      entries[at + CONTEXT] === context &&
      entries[at + STAMP] === this.#stampOf(space, context)
    ) {
      const info = entries[at + INFO];
      if ((info & wish) === wish) return this.#answer(at, hi, lo);
    }
    return this.#lookupElsewhere(space, context, hi, lo, wish);
  }

  /**
   * Caches a translation: the page of 2^lg2 bytes around the address (12 to 63) goes where `out`, laid out as a walker's
   * `out`, says that the address goes. `global`: the tables say that it is the same in every context of the space.
   */
  fill(space: number, context: number, hi: number, lo: number, lg2: number, out: Int32Array, global = false): void {
    const high = keyHi(hi, lg2);
    const low = keyLo(hi, lo, lg2);
    const at = this.#place(space, context, high, low);
    const entries = this.#entries;
    entries[at + KEY_LO] = low;
    entries[at + KEY_HI] = high;
    entries[at + SPACE] = space;
    entries[at + CONTEXT] = context;
    entries[at + STAMP] = this.#stampOf(space, context);
    entries[at + DELTA_LO] = lo ^ out[OUT_LO];
    entries[at + DELTA_HI] = hi ^ out[OUT_HI];
    entries[at + INFO] = (out[OUT_PERMISSION] & 0xff) | (out[OUT_TYPE] << 8);
    if (global) this.#globals[space & (SPACES - 1)] = 1;
    this.#addSize(lg2);
  }

  /** Forgets everything, at once. */
  invalidateAll(): void {
    this.#all = this.#bumped(this.#all);
    this.#globals.fill(0);
    this.#sizeCount = 0;
    this.#sizes[0] = PAGE_LG2;
  }

  /** Forgets the translations of a space, in whichever context, at once. */
  invalidateSpace(space: number): void {
    const at = space & (SPACES - 1);
    this.#spaces[at] = this.#bumped(this.#spaces[at]);
    this.#globals[at] = 0;
  }

  /** Forgets the translations of one context of a space, at once. */
  invalidateContext(space: number, context: number): void {
    const at = contextAt(space, context);
    this.#contexts[at] = this.#bumped(this.#contexts[at]);
  }

  /**
   * Forgets what a context of a space, and global translations of the space in any context, have for [first, last] (page
   * frame numbers): every page of every size that touches it.
   */
  invalidateRange(space: number, context: number, first: number, last: number): void {
    if (!(first >= 0 && first <= last && last < PFN_LIMIT)) throw new RangeError(`Iotlb: [${first}, ${last}] is no range of pages`);
    if (this.#globals[space & (SPACES - 1)] !== 0) {
      this.invalidateSpace(space);
      return;
    }
    for (let i = 0; i < this.#sizeCount; i++) {
      const lg2 = this.#sizes[i];
      const pages = 2 ** (lg2 - PAGE_LG2);
      const from = Math.floor(first / pages);
      const to = Math.floor(last / pages);
      if (to - from >= RANGE_PAGES) {
        this.invalidateContext(space, context);
        return;
      }
      for (let page = from; page <= to; page++) this.#drop(space, context, Math.floor(page / 2 ** 32) | (lg2 << 24), page | 0);
    }
  }

  /** Other sizes, and places other than the first; the size that is found is tried first from now on. */
  #lookupElsewhere(space: number, context: number, hi: number, lo: number, wish: number): number {
    const entries = this.#entries;
    const sizes = this.#sizes;
    const stamp = this.#stampOf(space, context);
    for (let i = 0; i < this.#sizeCount; i++) {
      const lg2 = sizes[i];
      const low = keyLo(hi, lo, lg2);
      const high = keyHi(hi, lg2);
      const home = this.#home(space, context, high, low);
      for (let way = 0; way < WAYS; way++) {
        const at = this.#wayAt(home, way);
        if (!this.#is(at, space, context, high, low) || entries[at + STAMP] !== stamp || (entries[at + INFO] & wish) !== wish) continue;
        sizes[i] = sizes[0];
        sizes[0] = lg2;
        return this.#answer(at, hi, lo);
      }
    }
    return -1;
  }

  #answer(at: number, hi: number, lo: number): number {
    const entries = this.#entries;
    const out = this.out;
    const info = entries[at + INFO];
    out[OUT_LO] = lo ^ entries[at + DELTA_LO];
    out[OUT_HI] = hi ^ entries[at + DELTA_HI];
    out[OUT_PERMISSION] = info & 0xff;
    out[OUT_TYPE] = info >> 8;
    return entries[at + KEY_HI] >>> 24;
  }

  /** Where to put a translation: over itself, else over one that is no longer valid, else over any. */
  #place(space: number, context: number, high: number, low: number): number {
    const entries = this.#entries;
    const home = this.#home(space, context, high, low);
    let free = -1;
    for (let way = 0; way < WAYS; way++) {
      const at = this.#wayAt(home, way);
      if (this.#is(at, space, context, high, low)) return at;
      if (free < 0 && (entries[at + KEY_HI] === 0 || entries[at + STAMP] !== this.#stampOf(entries[at + SPACE], entries[at + CONTEXT]))) {
        free = at;
      }
    }
    if (free >= 0) return free;
    this.#victim = (this.#victim + 1) % WAYS;
    return this.#wayAt(home, this.#victim);
  }

  #drop(space: number, context: number, high: number, low: number): void {
    const home = this.#home(space, context, high, low);
    for (let way = 0; way < WAYS; way++) {
      const at = this.#wayAt(home, way);
      if (this.#is(at, space, context, high, low)) this.#entries[at + KEY_HI] = 0;
    }
  }

  #is(at: number, space: number, context: number, high: number, low: number): boolean {
    const entries = this.#entries;
    return (
      entries[at + KEY_LO] === low && entries[at + KEY_HI] === high && entries[at + SPACE] === space && entries[at + CONTEXT] === context
    );
  }

  /**
   * Number of the first place of a page. Pages in a row get places in a row; adding the bits above keeps pages a power of
   * two apart from meeting in one place; the factors set tables apart.
   */
  #home(space: number, context: number, high: number, low: number): number {
    const page = low + (low >>> this.#lg2) + (low >>> this.#foldLg2) + Math.imul(high, 0x2545f491);
    return (page + Math.imul(space, 0x61c88647) + Math.imul(context, 0x1b873593)) & this.#mask;
  }

  #wayAt(home: number, way: number): number {
    return ((home + way) & this.#mask) << ENTRY_LG2;
  }

  #stampOf(space: number, context: number): number {
    return (this.#all + this.#spaces[space & (SPACES - 1)] + this.#contexts[contextAt(space, context)]) | 0;
  }

  #addSize(lg2: number): void {
    const sizes = this.#sizes;
    for (let i = 0; i < this.#sizeCount; i++) if (sizes[i] === lg2) return;
    sizes[this.#sizeCount++] = lg2;
  }

  /** The next generation. */
  #bumped(generation: number): number {
    if (++this.#bumps === STAMPS) {
      this.#entries.fill(0);
      this.#bumps = 0;
    }
    return (generation + 1) | 0;
  }
}

/** Low half of address >> lg2, 12 <= lg2 <= 63. Shift counts are taken modulo 32. */
function keyLo(hi: number, lo: number, lg2: number): number {
  return lg2 < 32 ? (lo >>> lg2) | (hi << -lg2) : (hi >>> lg2) | 0;
}

/** High half of address >> lg2, and lg2 above it. */
function keyHi(hi: number, lg2: number): number {
  return lg2 < 32 ? (hi >>> lg2) | (lg2 << 24) : lg2 << 24;
}

function contextAt(space: number, context: number): number {
  return (Math.imul(space, 0x9e3779b1) + context) & (CONTEXTS - 1);
}
