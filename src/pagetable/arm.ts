import { EXECUTE, PRIVILEGED, READ, READ_WRITE, WRITE } from '../memory/access.ts';
import { hiOf, loOf } from '../memory/address.ts';
import { LOADED } from '../memory/loaded.ts';
import { type ArmTableConfig, describeArm, joinedLg2 } from './arm-config.ts';
import {
  FAULT_ACCESS_FLAG,
  FAULT_INPUT_SIZE,
  FAULT_NOT_PRESENT,
  FAULT_OUTPUT_SIZE,
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
import { ABSENT, type Entry, LEAF, MALFORMED, RadixTable, TABLE } from './radix.ts';
import { requireParts } from './radix-reader.ts';

/** LOADED, here because the compiler folds a module's own constants only. */
const word = LOADED;

/*
 * Armv8-A stage 1 and stage 2 as an SMMUv3 walks them: Arm Architecture Reference Manual (DDI 0487), chapter D8 "The AArch64
 * Virtual Memory System Architecture" (VMSAv8-64), and Arm SMMUv3 (IHI 0070) for the fields of CD and STE that configure them.
 *
 *   level (Arm's: 3 - level)   4K granule     16K granule    64K granule     entries that Contiguous joins
 *   0  pages                   4 KiB          16 KiB         64 KiB          16 / 128 / 32
 *   1  blocks                  2 MiB          32 MiB         512 MiB         16 / 32 / 32
 *   2  blocks                  1 GiB          64 GiB (DS)    4 TiB (52 bit)  16 / - / -
 *   3  blocks                  512 GiB (DS)   tables only    -
 *   4                          tables only (52-bit input)
 *
 * An index has 9, 11 or 13 bits; that of the root has what the input leaves over, in a second stage up to 4 bits more than
 * the others: 16 concatenated tables (D8.2, "Concatenated translation tables").
 *
 * Not here, because they never make a difference to a DMA or are the owner's: NS and NSTable, WXN and PAN, TTB selection
 * and EPDn (two tables, of which `upper` is TTB1), and big-endian tables (SMMU_IDR0.TTENDIAN says little).
 */

/** Descriptor bits, low half (D8.3.1, "VMSAv8-64 descriptor formats"). */
const VALID = 1;
/** A table above the leaf level, a page on it; clear: a block. */
const TABLE_OR_PAGE = 1 << 1;
/** AP[2] (1: read-only) of stage 1, S2AP[1] (1: writable) of stage 2: what hardware changes to mark a page dirty (D8.5.2). */
const DIRTY_STATE = 1 << 7;
const AF = 1 << 10;
const NOT_GLOBAL = 1 << 11;
/** High half. */
const DBM = 1 << 19;
const CONTIGUOUS = 1 << 20;
/** PXN and UXN of stage 1; XN[1:0] of stage 2. */
const XN_SHIFT = 21;
const UXN = 1 << 22;
const PXN = 1 << 21;
/** PXNTable, UXNTable, APTable[1:0] of a stage 1 table descriptor (D8.4, "Hierarchical control of data access Direct permissions"). */
const HIERARCHY = 0x7800_0000;
const HIERARCHY_SHIFT = 27;
/** Bits of the index into `grants` that APTable[1] and XNTable set, and that APTable[0] clears. */
const TABLE_SETS = 0b1011;
const TABLE_CLEARS = 0b0100;
/** For the test that compares what is repeated here with `fields` of the description: masks of the low half, of the high half, and both of the address. */
export const REPEATED = {
  low: { valid: VALID, tableOrPage: TABLE_OR_PAGE, af: AF, ng: NOT_GLOBAL },
  high: { dbm: DBM, pxn: PXN, uxn: UXN },
  address: {},
} as const;

const RWX = READ_WRITE | EXECUTE;

/** How often a walk looks again because somebody else changed the entry that it updates. */
const RETRIES = 16;

export type { ArmTableConfig };

/**
 * @throws RangeError for a configuration that the architecture does not have; see ArmTableConfig.
 *
 * @example
 * const memory = GuestMemory.ofBytes(1 << 20);
 * let next = 16;
 * const allocator = { allocate: (pages) => (next += pages) - pages, free: () => {} };
 * const table = new ArmTable(memory, { stage: 2, granuleLg2: 12, inputBits: 40, outputBits: 40, root: 0x8000n, allocator });
 * table.map(0x40, 0x99, 1, READ_WRITE); // 1: page 0x40 to page 0x99
 * table.walk(0, 0x40123, READ); // 12: lg2 of the page
 * table.out[0]; // 0x99123
 */
export class ArmTable extends RadixTable {
  protected override readonly kept: readonly [number, number];
  readonly #top: number;
  readonly #topShift: number;
  readonly #topMask: number;
  readonly #stride: number;
  readonly #rootHi: number;
  readonly #rootLo: number;
  /** What the input must be above its width, and where. */
  readonly #sign: number;
  readonly #excessHi: number;
  readonly #excessLo: number;
  /** Where an entry holds its address, and bits 51:48 or 51:50 of it that spilled into the low half. */
  readonly #addressHi: number;
  readonly #addressLo: number;
  readonly #spilled: number;
  readonly #spill: number;
  /** Bits of an address's high half that are beyond the output size. */
  readonly #beyond: number;
  readonly #topBlock: number;
  /** Told of each leaf of stage 1 that is met while enumerating and is every ASID's (nG 0, D8.16.3). */
  globalLeaf: (() => void) | null = null;
  /** lg2 of the entries that Contiguous joins, by level. */
  readonly #joined: readonly number[];
  readonly #hierarchy: number;
  /** Permission by privilege (bit 4), AP[2:1] or S2AP (bits 3:2), and PXN and UXN or XN (bits 1:0). */
  readonly #grants: Uint8Array;
  readonly #faultBit: number;
  readonly #setBit: number;
  readonly #dirty: boolean;
  /** DIRTY_STATE of a dirty page. */
  readonly #writable: number;
  readonly #typeMask: number;
  /** What of a leaf `out` reports: its type and, of stage 1, whether it is global. */
  readonly #reported: number;
  /** PRIVILEGED where `enumerate` speaks for such accesses. */
  readonly #enumerated: number;
  readonly #leafLo: number;
  readonly #stage2: boolean;

  constructor(memory: TableMemory, config: ArmTableConfig) {
    requireParts('Arm table', memory, config);
    const description = describeArm(config);
    const { stage, granuleLg2, inputBits, outputBits, wide = false, accessFlag = 'fault' } = config;
    const { levels } = description;
    const top = levels[levels.length - 1];
    const root = config.root & -(8n << BigInt(top.bits));
    if (root < 0n || root >> BigInt(outputBits) !== 0n)
      throw new RangeError(`Arm table: root 0x${config.root.toString(16)} is wider than ${outputBits} bits`);
    super(memory, { root: Number(root) / 4096, ...(config.allocator && { allocator: config.allocator }) }, description);
    this.#stage2 = stage === 2;
    this.#top = levels.length - 1;
    this.#topShift = top.shift;
    this.#topMask = 2 ** top.bits - 1;
    this.#stride = granuleLg2 - 3;
    this.#rootHi = hiOf(root);
    this.#rootLo = loOf(root);
    this.#sign = config.upper ? -1 : 0;
    const excess = -(1n << BigInt(inputBits)) & (config.topByteIgnored ? (1n << 56n) - 1n : -1n);
    this.#excessHi = hiOf(excess);
    this.#excessLo = loOf(excess);
    this.#addressHi = wide && granuleLg2 < 16 ? 0x3_ffff : 0xffff;
    this.#addressLo = -(1 << granuleLg2);
    // DS: bits 51:50 in 9:8 (D8.3.1); 64K: bits 51:48 in 15:12.
    this.#spilled = wide ? (granuleLg2 < 16 ? 0x300 : 0xf000) : 0;
    this.#spill = granuleLg2 < 16 ? 10 : 4;
    this.#beyond = outputBits === 32 ? -1 : -(1 << (outputBits - 32));
    this.#topBlock = levels.findLastIndex(({ leaf }) => leaf);
    this.#joined = levels.map(({ bits }, level) => joinedLg2(granuleLg2, level, bits));
    this.#hierarchy = stage === 1 && !config.hierarchyDisabled ? HIERARCHY : 0;
    this.#grants = stage === 2 ? stage2Grants(config.xnx ?? false) : config.onePrivilege ? onePrivilegeGrants() : stage1Grants();
    this.#enumerated = config.privileged ? PRIVILEGED : 0;
    this.#faultBit = accessFlag === 'fault' ? AF : 0;
    this.#setBit = accessFlag === 'update' ? AF : 0;
    this.#dirty = config.dirty ?? false;
    this.#writable = stage === 1 ? 0 : DIRTY_STATE;
    this.#typeMask = (stage === 1 ? 0x1c : 0x3c) | (this.#spilled & 0x300 ? 0 : 0x300);
    this.#reported = this.#typeMask | (stage === 1 ? NOT_GLOBAL : 0);
    this.#leafLo = VALID | AF | (stage === 1 ? NOT_GLOBAL : 0) | ((config.memoryType ?? (stage === 1 ? 0x300 : 0x33c)) & this.#typeMask);
    this.kept = [this.#typeMask | AF | (stage === 1 ? NOT_GLOBAL | DIRTY_STATE : 0), DBM];
  }

  walk(hi: number, lo: number, access: number): number {
    const { memory } = this;
    const sign = this.#sign;
    let level = this.#top;
    if ((((hi ^ sign) & this.#excessHi) | ((lo ^ sign) & this.#excessLo)) !== 0) return faultCode(FAULT_INPUT_SIZE, level);
    let shift = this.#topShift;
    let mask = this.#topMask;
    let tableHi = this.#rootHi;
    let tableLo = this.#rootLo;
    let hierarchy = 0;
    for (let tries = 0; tries < RETRIES; ) {
      const index = (shift < 32 ? (lo >>> shift) | (hi << (32 - shift)) : hi >>> (shift - 32)) & mask;
      const at = tableLo | (index << 3);
      if (memory.load64(tableHi, at) < 0) return faultCode(FAULT_TABLE_ACCESS, level);
      const entryLo = word[0];
      const entryHi = word[1];
      if ((entryLo & VALID) === 0) return faultCode(FAULT_NOT_PRESENT, level);
      const isTable = level > 0 && (entryLo & TABLE_OR_PAGE) !== 0;
      if (!isTable && (level > 0 ? level > this.#topBlock : (entryLo & TABLE_OR_PAGE) === 0)) return faultCode(FAULT_RESERVED, level);
      const outHi = (entryHi & this.#addressHi) | ((entryLo & this.#spilled) << this.#spill);
      if ((outHi & this.#beyond) !== 0) return faultCode(FAULT_OUTPUT_SIZE, level);
      if (isTable) {
        hierarchy |= entryHi & this.#hierarchy;
        tableHi = outHi;
        tableLo = entryLo & this.#addressLo;
        level--;
        shift -= this.#stride;
        mask = (1 << this.#stride) - 1;
        continue;
      }
      if ((~entryLo & this.#faultBit) !== 0) return faultCode(FAULT_ACCESS_FLAG, level);
      // With DBM, hardware turns the page dirty, so that it is as good as writable (D8.5.2).
      const isClean = this.#dirty && (entryHi & DBM) !== 0 && (entryLo & DIRTY_STATE) !== this.#writable;
      const dirtied = isClean ? entryLo ^ DIRTY_STATE : entryLo;
      const permission = this.#grant(dirtied, entryHi, hierarchy, access);
      if ((access & RWX & ~permission) !== 0) return faultCode(FAULT_PERMISSION, level);
      const updated = ((access & WRITE) !== 0 ? dirtied : entryLo) | this.#setBit;
      if (updated !== entryLo) {
        const done = memory.compareExchange64(tableHi, at, entryHi, entryLo, entryHi, updated);
        if (done < 0) return faultCode(FAULT_TABLE_ACCESS, level);
        tries++;
        if (done === 0) continue;
      }
      const lg2 = (entryHi & CONTIGUOUS) === 0 ? shift : this.#joinedShift(level, shift, index, outHi, entryLo);
      const { out } = this;
      if (lg2 < 32) {
        const offset = (1 << lg2) - 1;
        out[OUT_LO] = (entryLo & this.#addressLo & ~offset) | (lo & offset);
        out[OUT_HI] = outHi;
      } else {
        const offset = (1 << (lg2 - 32)) - 1;
        out[OUT_LO] = lo;
        out[OUT_HI] = (outHi & ~offset) | (hi & offset);
      }
      out[OUT_PERMISSION] = permission;
      out[OUT_TYPE] = entryLo & this.#reported;
      return lg2;
    }
    return faultCode(FAULT_TABLE_ACCESS, level);
  }

  /**
   * The run of entries that this one says it is part of, or the entry alone: where it leads elsewhere than the run would
   * (misprogrammed), translating by the entry's own address is always right (D8.7.1.1).
   */
  #joinedShift(level: number, shift: number, index: number, outHi: number, outLo: number): number {
    const joined = this.#joined[level];
    const part = (outLo >>> shift) | (outHi << (32 - shift));
    return ((part ^ index) & ((1 << joined) - 1)) === 0 ? shift + joined : shift;
  }

  #grant(entryLo: number, entryHi: number, hierarchy: number, access: number): number {
    const tables = hierarchy >>> HIERARCHY_SHIFT;
    const own = ((entryLo >>> 4) & 12) | ((entryHi >>> XN_SHIFT) & 3);
    return this.#grants[((own | (tables & TABLE_SETS)) & ~(tables & TABLE_CLEARS)) | ((access & PRIVILEGED) << 1)];
  }

  protected override decode(level: number, hi: number, lo: number, into: Entry): number {
    if ((lo & VALID) === 0) return ABSENT;
    const outHi = (hi & this.#addressHi) | ((lo & this.#spilled) << this.#spill);
    if ((outHi & this.#beyond) !== 0) return MALFORMED;
    into.address = outHi * 0x1_0000_0000 + ((lo & this.#addressLo) >>> 0);
    if (level > 0 && (lo & TABLE_OR_PAGE) !== 0) {
      into.next = level - 1;
      // The most that any descriptor grants, under this one.
      into.permission = this.#stage2 ? RWX : this.#grant(this.#enumerated === 0 ? 1 << 6 : 0, 0, hi & this.#hierarchy, this.#enumerated);
      return TABLE;
    }
    if (level > this.#topBlock || (level === 0 && (lo & TABLE_OR_PAGE) === 0)) return MALFORMED;
    const { shift } = this.description.levels[level];
    into.lg2 = (hi & CONTIGUOUS) === 0 ? shift : this.#joinedShift(level, shift, into.index, outHi, lo);
    into.address -= into.address % 2 ** into.lg2;
    const dirtied = this.#dirty && (hi & DBM) !== 0 ? (lo & ~DIRTY_STATE) | this.#writable : lo;
    into.permission = (~lo & this.#faultBit) !== 0 ? 0 : this.#grant(dirtied, hi, 0, this.#enumerated);
    if (this.globalLeaf !== null && !this.#stage2 && (lo & NOT_GLOBAL) === 0) this.globalLeaf();
    return LEAF;
  }

  protected override encodeTable(_level: number, address: number): void {
    this.#encode(address, VALID | TABLE_OR_PAGE, 0);
  }

  protected override encodeLeaf(level: number, lg2: number, address: number, permission: number): void {
    const s1 = (permission & READ_WRITE ? 1 : 0) | (permission & WRITE ? 0 : 2);
    const ap = this.#stage2 ? permission & READ_WRITE : s1;
    const never = this.#stage2 ? UXN : UXN | PXN;
    const joined = lg2 > this.description.levels[level].shift ? CONTIGUOUS : 0;
    this.#encode(address, this.#leafLo | (level === 0 ? TABLE_OR_PAGE : 0) | (ap << 6), (permission & EXECUTE ? 0 : never) | joined);
  }

  #encode(address: number, lo: number, hi: number): void {
    const addressHi = (address / 0x1_0000_0000) | 0;
    this.made[0] = address | ((addressHi >>> this.#spill) & this.#spilled) | lo;
    this.made[1] = (addressHi & this.#addressHi) | hi;
  }
}

/** D8.4, "Stage 1 data accesses using Direct permissions" of a regime with two privileges. */
function stage1Grants(): Uint8Array {
  return Uint8Array.from({ length: 32 }, (_, i) => {
    const readOnly = (i & 8) !== 0;
    const user = (i & 4) === 0 ? 0 : readOnly ? READ : READ_WRITE;
    if ((i & 16) === 0) return user | (i & 2 ? 0 : EXECUTE);
    // What the unprivileged can write, the privileged never execute.
    return (readOnly ? READ : READ_WRITE) | (i & 1 || user & WRITE ? 0 : EXECUTE);
  });
}

/** The same of a regime with one privilege, EL2: AP[2] and XN. */
function onePrivilegeGrants(): Uint8Array {
  return Uint8Array.from({ length: 32 }, (_, i) => ((i & 8) !== 0 ? READ : READ_WRITE) | (i & 2 ? 0 : EXECUTE));
}

/** The same of stage 2; XN[1:0] with FEAT_XNX: execution by all, by the unprivileged, by none, by the privileged. */
function stage2Grants(xnx: boolean): Uint8Array {
  return Uint8Array.from({ length: 32 }, (_, i) => {
    const xn = i & 3;
    const executes = !xnx ? xn < 2 : xn === 0 || (i & 16 ? xn === 3 : xn === 1);
    return ((i >> 2) & 3) | (executes ? EXECUTE : 0);
  });
}
