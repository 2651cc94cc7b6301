import { EXECUTE, hiOfPfn, loOfPfn, READ, WRITE } from '../memory/index.ts';
import { LOADED } from '../memory/loaded.ts';
import { ADDRESS_HI, offsetIn } from './nine-bits.ts';
import {
  type Description,
  FAULT_INPUT_SIZE,
  FAULT_NOT_PRESENT,
  FAULT_PERMISSION,
  FAULT_RESERVED,
  FAULT_TABLE_ACCESS,
  faultCode,
  OUT_HI,
  OUT_LO,
  OUT_PERMISSION,
  OUT_TYPE,
  type TableMemory,
} from './page-table.ts';
import { ABSENT, type Entry, LEAF, MALFORMED, type RadixConfig, RadixTable, TABLE } from './radix.ts';
import { requireParts } from './radix-reader.ts';

/** LOADED, here because the compiler folds a module's own constants only. */
const word = LOADED;

/**
 * Host tables ("v1") of the AMD IOMMU: specification 48882 rev 3.10, 2.2.3 "I/O page tables for host translations".
 * Levels count from 0 here, from 1 there.
 *
 * level  input bits  maps by default (NextLevel 0)  with an encoded size (NextLevel 7, table 14)
 * 5      63:57       –                              –
 * 4      56:48       256 TiB                        512 TiB to 2 PiB
 * 3      47:39       512 GiB                        1 TiB to 128 TiB
 * 2      38:30       1 GiB                          2 GiB to 256 GiB
 * 1      29:21       2 MiB                          4 MiB to 512 MiB
 * 0      20:12       4 KiB                          8 KiB to 1 MiB
 *
 * NextLevel 1 to 6 names the level of the table that follows, any below this one; the input bits of levels left out must be 0.
 */

/** Bits of the low half (tables 16 and 17). */
const PR = 1 << 0;
/** Accessed (all entries) and dirty (leaf), where the device table entry's HAD asks for them. */
const A = 1 << 5;
const D = 1 << 6;
const NEXT_LEVEL_SHIFT = 9;
const NEXT_LEVEL_MASK = 7;
/** NextLevel of a leaf of the level's own size, and of one whose size stands in its address. */
const DEFAULT_SIZE = 0;
const ENCODED_SIZE = 7;
/** Bits of the high half. U and FC are attributes of a leaf and reserved in an entry that points to a table. */
const U = 1 << 27;
const FC = 1 << 28;
const IR = 1 << 29;
const IW = 1 << 30;
const IR_IW_SHIFT = 29;
const RESERVED_IN_LEAF = 0x7f << 20;
const RESERVED_IN_TABLE = RESERVED_IN_LEAF | U | FC;

/** For `walk`: NextLevel as it stands in an entry, an entry's address, READ | WRITE, with EXECUTE, WRITE. */
const LEVEL_BITS = 7 << 9;
const LEVEL_1 = 1 << 9;
const LEVEL_2 = 2 << 9;
const LEVEL_3 = 3 << 9;
const LEVEL_4 = 4 << 9;
const HI = 0xf_ffff;
const LO = ~0xfff;
const RW = 3;
const RWX = 7;
const WRITES = 2;
/**
 * For the test that compares what is repeated here with `fields` of the description: masks of the low half, of the high half, and both of
 * the address; `access` with src/memory/access.ts.
 */
export const REPEATED = {
  low: { PR, A, D, nextLevel: LEVEL_BITS },
  high: { U, FC, IR, IW },
  address: { address: [LO, HI] },
  access: { RW, RWX, WRITES },
} as const;

/** lg2 of the largest size that can be encoded: bits 51:12 hold the ones, the zero that ends them, and an address. */
const LARGEST_LG2 = 51;
const RETRIES = 16;

export interface AmdV1Config extends RadixConfig {
  /** Device table entry Mode. */
  readonly levels: 1 | 2 | 3 | 4 | 5 | 6;
  /** Device table entry HAD: accessed and dirty bits are set. Default none. */
  readonly accessedDirty?: 'none' | 'accessed' | 'both';
}

/**
 * @example
 * const memory = GuestMemory.ofBytes(1 << 20);
 * let next = 16;
 * const allocator = { allocate: (pages) => (next += pages) - pages, free: () => {} };
 * const table = new AmdV1Table(memory, { root: 8, levels: 4, allocator });
 * table.map(0x40, 0x99, 1, READ_WRITE); // 1: page 0x40 to page 0x99
 * table.walk(0, 0x40123, READ); // 12: lg2 of the page
 * table.out[0]; // 0x99123
 */
export class AmdV1Table extends RadixTable {
  protected readonly kept: readonly [number, number] = [A | D, U | FC];
  readonly #top: number;
  readonly #rootHi: number;
  readonly #rootLo: number;
  readonly #accessed: number;
  readonly #dirty: number;
  /** First bit of the high half that is wider than the input of 3 to 5 levels. */
  readonly #excessShift: number;

  constructor(memory: TableMemory, config: AmdV1Config) {
    requireParts('amd-v1', memory, config);
    const { levels, root, accessedDirty = 'none' } = config;
    if (!Number.isInteger(levels) || levels < 1 || levels > 6) throw new RangeError(`amd-v1: ${levels} levels (1 to 6)`);
    super(memory, config, describe(levels));
    this.#top = levels - 1;
    this.#rootHi = hiOfPfn(root);
    this.#rootLo = loOfPfn(root);
    this.#accessed = accessedDirty === 'none' ? 0 : A;
    this.#dirty = accessedDirty === 'both' ? D : 0;
    this.#excessShift = 9 * levels - 20;
  }

  /**
   * The usual case in a straight line, more than twice as fast as the loop: every entry grants what is asked and names the next
   * lower level, the leaf has 4 KiB, nothing is to be marked. Whatever is not usual starts over in `#walkAny`. The constants
   * it uses are this module's own, and not exported: only those the compiler folds.
   */
  walk(hi: number, lo: number, access: number): number {
    const memory = this.memory;
    const usual = PR | this.#accessed;
    const wanted = (access & RW) << IR_IW_SHIFT;
    const top = this.#top;
    if (top < 2 || top > 4 || hi >>> this.#excessShift !== 0 || (access & RWX) === 0 || (access & RWX) > RW)
      return this.#walkAny(hi, lo, access);
    let and = IR | IW;
    let tableHi = this.#rootHi;
    let tableLo = this.#rootLo;
    if (top === 4) {
      if (memory.load64(tableHi, tableLo | ((hi >>> 13) & 0xff8)) < 0) return this.#walkAny(hi, lo, access);
      if ((word[0] & (usual | LEVEL_BITS)) !== (usual | LEVEL_4)) return this.#walkAny(hi, lo, access);
      if ((word[1] & (RESERVED_IN_TABLE | wanted)) !== wanted) return this.#walkAny(hi, lo, access);
      and &= word[1];
      tableHi = word[1] & HI;
      tableLo = word[0] & LO;
    }
    if (top >= 3) {
      if (memory.load64(tableHi, tableLo | ((hi >>> 4) & 0xff8)) < 0) return this.#walkAny(hi, lo, access);
      if ((word[0] & (usual | LEVEL_BITS)) !== (usual | LEVEL_3)) return this.#walkAny(hi, lo, access);
      if ((word[1] & (RESERVED_IN_TABLE | wanted)) !== wanted) return this.#walkAny(hi, lo, access);
      and &= word[1];
      tableHi = word[1] & HI;
      tableLo = word[0] & LO;
    }
    if (memory.load64(tableHi, tableLo | (((lo >>> 27) | (hi << 5)) & 0xff8)) < 0) return this.#walkAny(hi, lo, access);
    if ((word[0] & (usual | LEVEL_BITS)) !== (usual | LEVEL_2)) return this.#walkAny(hi, lo, access);
    if ((word[1] & (RESERVED_IN_TABLE | wanted)) !== wanted) return this.#walkAny(hi, lo, access);
    and &= word[1];
    if (memory.load64(word[1] & HI, (word[0] & LO) | ((lo >>> 18) & 0xff8)) < 0) return this.#walkAny(hi, lo, access);
    if ((word[0] & (usual | LEVEL_BITS)) !== (usual | LEVEL_1)) return this.#walkAny(hi, lo, access);
    if ((word[1] & (RESERVED_IN_TABLE | wanted)) !== wanted) return this.#walkAny(hi, lo, access);
    and &= word[1];
    if (memory.load64(word[1] & HI, (word[0] & LO) | ((lo >>> 9) & 0xff8)) < 0) return this.#walkAny(hi, lo, access);
    const entryLo = word[0];
    const entryHi = word[1];
    const leafUsual = usual | ((access & WRITES) !== 0 ? this.#dirty : 0);
    if ((entryLo & (leafUsual | LEVEL_BITS)) !== leafUsual || (entryHi & (RESERVED_IN_LEAF | wanted)) !== wanted) {
      return this.#walkAny(hi, lo, access);
    }
    const out = this.out;
    out[0] = (entryLo & LO) | (lo & 0xfff);
    out[1] = entryHi & HI;
    out[2] = ((and & entryHi) >>> IR_IW_SHIFT) & RW;
    out[3] = (entryHi >>> 27) & 3;
    return 12;
  }

  #walkAny(hi: number, lo: number, access: number): number {
    const top = this.#top;
    if (top < 5 && anyBit(hi, lo, 12 + 9 * (top + 1), 64)) return faultCode(FAULT_INPUT_SIZE, top);
    const memory = this.memory;
    let tableHi = this.#rootHi;
    let tableLo = this.#rootLo;
    let granted = IR | IW;
    let retries = RETRIES;
    for (let level = top; ; ) {
      const at = tableLo | offsetIn(level, hi, lo);
      if (memory.load64(tableHi, at) < 0) return faultCode(FAULT_TABLE_ACCESS, level);
      const entryLo = word[0];
      const entryHi = word[1];
      if ((entryLo & PR) === 0) return faultCode(FAULT_NOT_PRESENT, level);
      const next = (entryLo >>> NEXT_LEVEL_SHIFT) & NEXT_LEVEL_MASK;
      const leaf = next === DEFAULT_SIZE || next === ENCODED_SIZE;
      if ((entryHi & (leaf ? RESERVED_IN_LEAF : RESERVED_IN_TABLE)) !== 0) return faultCode(FAULT_RESERVED, level);
      let wanted = entryLo | this.#accessed;
      if (leaf) {
        const lg2 = leafLg2(level, next, entryHi, entryLo);
        if (lg2 < 0) return faultCode(FAULT_RESERVED, level);
        const permission = ((granted & entryHi) >>> IR_IW_SHIFT) & (READ | WRITE);
        if ((wish(access) & ~permission) !== 0) return faultCode(FAULT_PERMISSION, level);
        if ((access & WRITE) !== 0) wanted |= this.#dirty;
        if (wanted === entryLo || memory.compareExchange64(tableHi, at, entryHi, entryLo, entryHi, wanted) === 1) {
          this.#setOutput(lg2, hi, lo, entryHi, entryLo);
          this.out[OUT_PERMISSION] = permission;
          return lg2;
        }
      } else {
        if (next > level) return faultCode(FAULT_RESERVED, level);
        if (next < level && anyBit(hi, lo, 12 + 9 * next, 12 + 9 * level)) return faultCode(FAULT_NOT_PRESENT, level);
        if (wanted === entryLo || memory.compareExchange64(tableHi, at, entryHi, entryLo, entryHi, wanted) === 1) {
          granted &= entryHi;
          tableHi = entryHi & ADDRESS_HI;
          tableLo = entryLo & ~0xfff;
          level = next - 1;
          continue;
        }
      }
      if (--retries === 0) return faultCode(FAULT_TABLE_ACCESS, level);
    }
  }

  #setOutput(lg2: number, hi: number, lo: number, entryHi: number, entryLo: number): void {
    const out = this.out;
    const inPageLo = lg2 < 32 ? (1 << lg2) - 1 : -1;
    const inPageHi = lg2 > 32 ? (1 << (lg2 - 32)) - 1 : 0;
    out[OUT_HI] = (entryHi & ADDRESS_HI & ~inPageHi) | (hi & inPageHi);
    out[OUT_LO] = (entryLo & ~inPageLo) | (lo & inPageLo);
    out[OUT_TYPE] = (entryHi >>> 27) & 3;
  }

  protected decode(level: number, hi: number, lo: number, into: Entry): number {
    if ((lo & PR) === 0) return ABSENT;
    const next = (lo >>> NEXT_LEVEL_SHIFT) & NEXT_LEVEL_MASK;
    const leaf = next === DEFAULT_SIZE || next === ENCODED_SIZE;
    if ((hi & (leaf ? RESERVED_IN_LEAF : RESERVED_IN_TABLE)) !== 0) return MALFORMED;
    into.permission = (hi >>> IR_IW_SHIFT) & (READ | WRITE);
    into.address = (hi & ADDRESS_HI) * 0x1_0000_0000 + ((lo & ~0xfff) >>> 0);
    if (leaf) {
      into.lg2 = leafLg2(level, next, hi, lo);
      if (into.lg2 < 0) return MALFORMED;
      into.address -= into.address % 2 ** into.lg2;
      return LEAF;
    }
    into.next = next - 1;
    return next <= level ? TABLE : MALFORMED;
  }

  /** The address of a leaf with an encoded size says how large it is. */
  protected override leafBits(level: number, hi: number, lo: number): number {
    return (lo & LEVEL_BITS) === 0 ? super.leafBits(level, hi, lo) : -1;
  }

  protected encodeTable(level: number, address: number): void {
    this.made[0] = address | 0 | PR | (level << NEXT_LEVEL_SHIFT);
    this.made[1] = (address / 0x1_0000_0000) | IR | IW;
  }

  protected encodeLeaf(level: number, lg2: number, address: number, permission: number): void {
    const encoded = lg2 > 12 + 9 * level;
    // An encoded size is the address of the whole page, then a zero, then ones down to bit 12 (table 14).
    const sized = encoded ? address - (address % 2 ** lg2) + 2 ** (lg2 - 1) - 4096 : address;
    this.made[0] = sized | 0 | PR | ((encoded ? ENCODED_SIZE : DEFAULT_SIZE) << NEXT_LEVEL_SHIFT);
    this.made[1] = (sized / 0x1_0000_0000) | (permission << IR_IW_SHIFT);
  }
}

/** lg2 of the page that a leaf maps, or -1 when this level has no such leaf: a size is less than the next level's (table 15). */
function leafLg2(level: number, next: number, hi: number, lo: number): number {
  const own = 12 + 9 * level;
  if (level === 5) return -1;
  if (next === DEFAULT_SIZE) return own;
  const lg2 = encodedLg2(hi, lo);
  return lg2 > own && lg2 < own + 9 && lg2 <= LARGEST_LG2 ? lg2 : -1;
}

/** The lowest zero at bit 12 or above is half the size (table 14); 64 when there is none. */
function encodedLg2(hi: number, lo: number): number {
  const zerosLo = ~lo & ~0xfff;
  if (zerosLo !== 0) return 32 - Math.clz32(zerosLo & -zerosLo);
  const zerosHi = ~hi & ADDRESS_HI;
  return zerosHi === 0 ? 64 : 64 - Math.clz32(zerosHi & -zerosHi);
}

/** Whether any of the address bits [from, end) is set; both are bounds of levels, so neither is 32. */
function anyBit(hi: number, lo: number, from: number, end: number): boolean {
  const low = from < 32 ? (lo >>> from) << from : 0;
  const high = from < 32 ? hi : (hi >>> (from - 32)) << (from - 32);
  if (end >= 64) return (low | high) !== 0;
  return end < 32 ? (low & ((1 << end) - 1)) !== 0 : (low | (high & ((1 << (end - 32)) - 1))) !== 0;
}

/** The tables do not tell a fetch from a read. */
function wish(access: number): number {
  return (access & (READ | WRITE)) | ((access & EXECUTE) !== 0 ? READ : 0);
}

function describe(levels: number): Description {
  const largest = Math.min(LARGEST_LG2, 11 + 9 * levels);
  return {
    format: 'amd-v1',
    specification: 'AMD IOMMU 48882 rev 3.10, 2.2.3',
    levels: Array.from({ length: levels }, (_, level) => ({ shift: 12 + 9 * level, bits: level === 5 ? 7 : 9, leaf: level < 5 })),
    inputBits: levels === 6 ? 64 : 12 + 9 * levels,
    canonical: false,
    outputBits: 52,
    pageLg2s: Array.from({ length: largest - 11 }, (_, i) => 12 + i),
    permissions: [READ, WRITE, READ | WRITE],
    fields: {
      PR: [0, 0],
      A: [5, 5],
      D: [6, 6],
      nextLevel: [9, 11],
      address: [12, 51],
      U: [59, 59],
      FC: [60, 60],
      IR: [61, 61],
      IW: [62, 62],
    },
  };
}
