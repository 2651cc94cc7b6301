import { PAGE_LG2, PFN_LIMIT } from './address.ts';
import { requireInteger } from './arguments.ts';
import { IotlbContexts, LARGE, saltOf } from './iotlb-contexts.ts';

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
 * The two are interned as one number, the tag, which a translation carries (`IotlbContexts`).
 *
 * A translation lies in one of WAYS neighbouring places, the first of which its page number gives; so pages in a row stand
 * in a row, and a hit is nearly always in the first place looked at.
 */
const WAYS = 4;

/** Ints of an entry; half a cache line. With ENTRY_MASK, `at + FIELD` is an int32: no overflow to check. */
const ENTRY_LG2 = 3;
const ENTRY_INTS = 1 << ENTRY_LG2;
/** Says to the compiler that an entry's index is not negative, and below 2^31 - 8. */
const ENTRY_MASK = 0x7fff_fff8;
/** Low 32 bits of address >> lg2. */
const KEY_LO = 0;
/** The rest of it (20 bits), and lg2 from bit 24 on. */
const KEY_HI = 1;
/** KEY_HI of a place where nothing has lain. A page's places are taken in order, so it has none after such a one. */
const NEVER_USED = 0;
/** 0: the entry is free. */
const TAG = 2;
/** Where its context is known, which tells whether the tag is old. */
const TAG_AT = 3;
/** Input XOR output address, so that one XOR translates whatever the page's size is; its low bits, which are 0, are the permission's place. */
const DELTA_LO = 4;
const DELTA_HI = 5;
const PERMISSION = 0xfff;

/** PAGE_LG2, here because the compiler folds a module's own constants only: an imported one is loaded each time. */
const SMALL_LG2 = 12;

/** `out`, as in src/pagetable/page-table.ts. */
const OUT_LO = 0;
const OUT_HI = 1;
const OUT_PERMISSION = 2;

/** An address range of more pages than this of one size invalidates the context instead: work per command is bounded. */
const RANGE_LG2 = 12;
const RANGE_PAGES = 1 << RANGE_LG2;
const LAST_TAG = 0x7fffffff;
/** By lg2 of a page: how many of it a small page is. */
const ITS_PAGES = Float64Array.from({ length: 64 }, (_, lg2) => 2 ** (PAGE_LG2 - lg2));

/** The context of translations that have none. */
export const NO_CONTEXT = -1;

/** The base class, because fields that are set once, where they are declared, are constants to the compiler if the object is. */
abstract class Sized extends IotlbContexts {
  /** Translations that it holds at most. */
  readonly capacity: number;

  /** @throws RangeError when the capacity is not a power of two from 16 to 2^24. */
  constructor(capacity: number, lastTag: number) {
    super(lastTag);
    requireInteger('Iotlb', 'capacity', capacity, 16, 2 ** 24);
    const lg2 = 31 - Math.clz32(capacity);
    if (capacity !== 2 ** lg2) throw new RangeError(`Iotlb: capacity ${capacity} is not a power of two in 16..2^24`);
    this.capacity = capacity;
  }
}

/**
 * @example
 * const iotlb = new Iotlb(64);
 * iotlb.fill(7, -1, 0, 0x5000, 12, Int32Array.of(0x9000, 0, READ, 0));
 * iotlb.lookup(7, -1, 0, 0x5123, READ); // 12: lg2 of the page
 * iotlb.out[0]; // 0x9123
 * iotlb.invalidateSpace(7);
 * iotlb.lookup(7, -1, 0, 0x5123, READ) < 0; // true
 */
export class Iotlb extends Sized {
  /**
   * Where `lookup` leaves its result, as a walker does: OUT_LO, OUT_HI and OUT_PERMISSION of src/pagetable/page-table.ts. Its buffer is one of
   * its own, because that of a small array may move.
   */
  readonly out = new Int32Array(new ArrayBuffer(12));
  readonly #entries = new Int32Array(this.capacity << ENTRY_LG2);
  /** Of an entry's index. */
  readonly #mask = (this.capacity - 1) << ENTRY_LG2;
  /** lg2 of the page sizes that may be in the cache, and of the one that was hit last: it is tried first. */
  readonly #sizes = new Int32Array(64);
  #sizeCount = 0;
  #firstSize = PAGE_LG2;
  #victim = 0;
  /** Lookups that found a translation: an access has one at most. */
  hits = 0;
  /** Accesses whose translation was not here, as the translators say when they walk tables: some look twice. */
  misses = 0;

  /** `lastTag`: the tag after which they begin anew; a test need not fill 2^31 contexts to see it. */
  constructor(capacity: number, lastTag = LAST_TAG) {
    super(capacity, lastTag);
    this.select(0, 0);
  }

  /**
   * Translates an access that wants the bits `wish` of the permission (12 bits at most): returns lg2 of the page as it was filled, the full
   * output address in `out`. -1: not cached, or not with this permission, and the tables must be walked.
   */
  lookup(space: number, context: number, hi: number, lo: number, wish: number): number {
    if (space !== this.space || context !== this.context) this.select(space, context);
    if (this.#firstSize !== SMALL_LG2) return this.#lookupAny(hi, lo, wish);
    const low = (lo >>> SMALL_LG2) | (hi << (32 - SMALL_LG2));
    const high = (hi >>> SMALL_LG2) | (SMALL_LG2 << 24);
    const at = this.#home(high, low);
    const entries = this.#entries;
    const delta = entries[at + DELTA_LO];
    if (entries[at + KEY_LO] === low && entries[at + KEY_HI] === high && entries[at + TAG] === this.tag && (delta & wish) === wish) {
      const out = this.out;
      out[OUT_LO] = lo ^ (delta & ~PERMISSION);
      out[OUT_HI] = hi ^ entries[at + DELTA_HI];
      out[OUT_PERMISSION] = delta & PERMISSION;
      this.hits++;
      return SMALL_LG2;
    }
    return this.#lookupAny(hi, lo, wish);
  }

  /**
   * The usual hit, with the fewest instructions on the way to it: of a device and process that `serve` named, of a small page, in the
   * first place of that page. lg2 of the page, its address in `out`, and nothing else there. -1: `lookup` has to say.
   */
  lookupFor(device: number, process: number, hi: number, lo: number, wish: number): number {
    if (device !== this.device || process !== this.process) return -1;
    const low = (lo >>> SMALL_LG2) | (hi << (32 - SMALL_LG2));
    const high = (hi >>> SMALL_LG2) | (SMALL_LG2 << 24);
    const at = this.#home(high, low);
    const entries = this.#entries;
    if (entries[at + KEY_LO] !== low || entries[at + KEY_HI] !== high || entries[at + TAG] !== this.tag) return -1;
    const delta = entries[at + DELTA_LO];
    if ((delta & wish) !== wish) return -1;
    const out = this.out;
    out[OUT_LO] = lo ^ (delta & ~PERMISSION);
    out[OUT_HI] = hi ^ entries[at + DELTA_HI];
    this.hits++;
    return SMALL_LG2;
  }

  /**
   * The context of the last lookup or fill is that of this device's requests for this process: `lookupFor` answers them until another
   * context is looked up, a whole one is forgotten, large pages are hit, or `serveNobody` says that what the two have may have changed.
   */
  serve(device: number, process: number): void {
    if (this.#firstSize !== SMALL_LG2) return;
    this.device = device;
    this.process = process;
  }

  /**
   * Caches a translation: the page of 2^lg2 bytes around the address (12 to 63) goes where `out`, laid out as a walker's
   * `out`, says that the address goes, with the permission there (12 bits). `global`: the tables say that it is the same in every context of the space.
   * @throws RangeError for another lg2
   */
  fill(space: number, context: number, hi: number, lo: number, lg2: number, out: Int32Array, global = false): void {
    if (!(lg2 >= 12 && lg2 <= 63)) throw wrongSize(lg2, 63);
    if (space !== this.space || context !== this.context) this.select(space, context);
    const high = keyHi(hi, lg2);
    const low = keyLo(hi, lo, lg2);
    const at = this.#place(high, low);
    const entries = this.#entries;
    entries[at + KEY_LO] = low;
    entries[at + KEY_HI] = high;
    entries[at + TAG] = this.tag;
    entries[at + TAG_AT] = this.tagAt;
    entries[at + DELTA_LO] = ((lo ^ out[OUT_LO]) & ~PERMISSION) | (out[OUT_PERMISSION] & PERMISSION);
    entries[at + DELTA_HI] = hi ^ out[OUT_HI];
    if (global) this.noteGlobal(space);
    this.#addSize(lg2);
  }

  /** Forgets everything, at once. */
  invalidateAll(): void {
    this.#sizeCount = 0;
    this.forgetSpaces();
  }

  /** Forgets the translations of a space, in whichever context, at once. */
  invalidateSpace(space: number): void {
    this.forgetSpace(space);
  }

  /** Forgets the translations of one context of a space, at once. */
  invalidateContext(space: number, context: number): void {
    this.forgetContext(space, context);
  }

  /**
   * Forgets what a context of a space, and global translations of the space in any context, have for [first, last] (page
   * frame numbers): every page of every size that touches it.
   * @throws RangeError when it is no range of pages
   */
  invalidateRange(space: number, context: number, first: number, last: number): void {
    if (!(first >= 0 && first <= last && last < PFN_LIMIT)) throw new RangeError(`Iotlb: [${first}, ${last}] is no range of pages`);
    const tag = this.#tagToDrop(space, context);
    if (tag === 0) return;
    for (let i = 0; i < this.#sizeCount; i++) {
      const lg2 = this.#sizes[i];
      const from = Math.floor(first * ITS_PAGES[lg2]);
      const to = Math.floor(last * ITS_PAGES[lg2]);
      if (to - from >= RANGE_PAGES) {
        this.invalidateContext(space, context);
        return;
      }
      for (let page = from; page <= to; page++) this.#drop(Math.floor(page * 2 ** -32) | (lg2 << 24), page | 0, tag);
    }
  }

  /**
   * The same for the aligned block of 2^lg2 bytes (12 to 64) around an address, as commands name it that have a mask: in int32 all the way.
   * @throws RangeError for another lg2
   */
  invalidateBlock(space: number, context: number, hi: number, lo: number, lg2: number): void {
    if (lg2 !== SMALL_LG2 || this.unusual !== 0) {
      this.#invalidateBlock(space, context, hi, lo, lg2);
      return;
    }
    const tag = this.#sizeCount === 0 ? 0 : this.tagOf(space, context);
    if (tag !== 0) this.#drop((hi >>> SMALL_LG2) | (SMALL_LG2 << 24), (lo >>> SMALL_LG2) | (hi << (32 - SMALL_LG2)), tag);
  }

  #invalidateBlock(space: number, context: number, hi: number, lo: number, lg2: number): void {
    if (!(lg2 >= 12 && lg2 <= 64)) throw wrongSize(lg2, 64);
    const tag = this.#tagToDrop(space, context);
    if (tag !== 0) this.#dropBlock(tag, space, context, hi, lo, lg2);
  }

  #dropBlock(tag: number, space: number, context: number, hi: number, lo: number, lg2: number): void {
    const sizes = this.#sizes;
    const count = this.#sizeCount;
    for (let i = 0; i < count; i++) {
      const size = sizes[i];
      const above = lg2 - size;
      if (above <= 0) this.#drop(keyHi(hi, size), keyLo(hi, lo, size), tag);
      else if (above > RANGE_LG2) {
        this.invalidateContext(space, context);
        return;
      } else {
        // The block is aligned, so its pages differ in low bits alone.
        const high = keyHi(hi, size);
        const first = keyLo(hi, lo, size) & (-1 << above);
        const last = first | ((1 << above) - 1);
        for (let low = first; low !== last; low = (low + 1) | 0) this.#drop(high, low, tag);
        this.#drop(high, last, tag);
      }
    }
  }

  /** The tag of a context, some of whose pages are to be dropped. 0: it has none, or with global ones the whole space was forgotten. */
  #tagToDrop(space: number, context: number): number {
    if (this.mayHaveGlobals(space)) {
      this.invalidateSpace(space);
      return 0;
    }
    return this.#sizeCount === 0 ? 0 : this.tagOf(space, context);
  }

  /** Every size, and every place. The size that is found is tried first from now on. */
  #lookupAny(hi: number, lo: number, wish: number): number {
    const entries = this.#entries;
    const out = this.out;
    for (let i = 0; i < this.#sizeCount; i++) {
      const lg2 = this.#sizes[i];
      const low = keyLo(hi, lo, lg2);
      const high = keyHi(hi, lg2);
      const home = this.#home(high, low);
      for (let way = 0; way < WAYS; way++) {
        const at = this.#way(home, way);
        if (entries[at + KEY_HI] === NEVER_USED) break;
        if (entries[at + KEY_LO] !== low || entries[at + KEY_HI] !== high || entries[at + TAG] !== this.tag) continue;
        const delta = entries[at + DELTA_LO];
        if ((delta & wish) !== wish) continue;
        this.#sizes[i] = this.#sizes[0];
        this.#sizes[0] = lg2;
        this.#firstSize = lg2;
        this.serveNobody();
        out[OUT_LO] = lo ^ (delta & ~PERMISSION);
        out[OUT_HI] = hi ^ entries[at + DELTA_HI];
        out[OUT_PERMISSION] = delta & PERMISSION;
        this.hits++;
        return lg2;
      }
    }
    return -1;
  }

  /** Where to put a translation: over itself, else in a place that is free or holds an old one, else over any. */
  #place(high: number, low: number): number {
    const entries = this.#entries;
    const home = this.#home(high, low);
    let free = -1;
    for (let way = 0; way < WAYS; way++) {
      const at = this.#way(home, way);
      if (entries[at + TAG] === this.tag) {
        if (entries[at + KEY_LO] === low && entries[at + KEY_HI] === high) return at;
      } else if (free < 0 && this.isOldTag(entries[at + TAG_AT], entries[at + TAG])) free = at;
    }
    if (free >= 0) return free;
    this.#victim = (this.#victim + 1) & (WAYS - 1);
    return this.#way(home, this.#victim);
  }

  /** A translation has one place: `#place` looks for it before it takes another. */
  #drop(high: number, low: number, tag: number): void {
    const entries = this.#entries;
    const end = ENTRY_MASK & this.#mask;
    let at = homeOf(high, low, saltOf(tag), end);
    for (let way = 0; way < WAYS; way++) {
      if (entries[at + KEY_LO] === low && entries[at + KEY_HI] === high && entries[at + TAG] === tag) {
        entries[at + TAG] = 0;
        return;
      }
      if (entries[at + KEY_HI] === NEVER_USED) return;
      at = (at + ENTRY_INTS) & end;
    }
  }

  #home(high: number, low: number): number {
    return homeOf(high, low, this.salt, this.#mask & ENTRY_MASK);
  }

  #way(home: number, way: number): number {
    return (home + (way << ENTRY_LG2)) & this.#mask & ENTRY_MASK;
  }

  protected dropAll(): void {
    this.#entries.fill(0);
  }

  #addSize(lg2: number): void {
    for (let i = 0; i < this.#sizeCount; i++) if (this.#sizes[i] === lg2) return;
    this.#sizes[this.#sizeCount++] = lg2;
    if (lg2 !== SMALL_LG2) this.unusual |= LARGE;
  }
}

/**
 * The first place of a page. Pages in a row get places in a row; adding the bits above keeps pages a power of two apart
 * from meeting in one place; the salt sets contexts apart. These are constants, for the compiler takes a function declaration for a variable.
 */
const homeOf = (high: number, low: number, salt: number, mask: number): number => {
  const sum = (((((low + (low >>> 9)) | 0) + (low >>> 18)) | 0) + ((high + salt) | 0)) | 0;
  return (sum << ENTRY_LG2) & mask;
};

function wrongSize(lg2: number, most: number): RangeError {
  return new RangeError(`Iotlb: lg2 ${lg2} is not in 12..${most}`);
}

/** Low half of address >> lg2, 12 <= lg2 <= 63. Shift counts are taken modulo 32. */
const keyLo = (hi: number, lo: number, lg2: number): number => (lg2 < 32 ? (lo >>> lg2) | (hi << -lg2) : (hi >>> lg2) | 0);

/** High half of address >> lg2, and lg2 above it. */
const keyHi = (hi: number, lg2: number): number => (lg2 < 32 ? (hi >>> lg2) | (lg2 << 24) : lg2 << 24);
