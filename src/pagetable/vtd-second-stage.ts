import { EXECUTE, hiOfPfn, loOfPfn, READ, WRITE } from '../memory/index.ts';
import { LOADED } from '../memory/loaded.ts';
import { ADDRESS_HI, BELOW_1G, BELOW_2M, offsetIn } from './nine-bits.ts';
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
 * Second-stage tables of Intel VT-d: specification 4.1, 3.7 "Second-stage translation" and 9.8 "Second-stage paging entries".
 *
 * level  entry      input bits  maps
 * 4      SS-PML5E   56:48       –
 * 3      SS-PML4E   47:39       –
 * 2      SS-PDPTE   38:30       1 GiB with PS, if CAP.SSLPS has it
 * 1      SS-PDE     29:21       2 MiB with PS, if CAP.SSLPS has it
 * 0      SS-PTE     20:12       4 KiB
 *
 * There is no present bit: an entry that grants nothing is not present (3.7).
 */

/** Bits of an entry's low half (9.8). The access bits have the values of READ, WRITE and EXECUTE. */
const R = 1 << 0;
const W = 1 << 1;
/** Ignored unless execute requests are told apart. */
const X = 1 << 2;
/** Leaf only: memory type and ignore-PAT; no reserved value matters to a translation. */
const EMT_IPAT = 0xf << 3;
/** In SS-PDPTE and SS-PDE; reserved above, ignored in an SS-PTE. */
const PS = 1 << 7;
/** Accessed and dirty, where the PASID table entry has SSADE; otherwise ignored. */
const A = 1 << 8;
const D = 1 << 9;
/** Leaf only, and only with ECAP.SC; otherwise reserved. */
const SNP = 1 << 11;

/** Bit 62, in the high half: reserved, as transient mappings are gone (9.8). */
const RESERVED_62 = 1 << 30;

/** An entry's address: ADDRESS_HI, and what is no flag of the low half. For `walk`. */
const HI = 0xf_ffff;
const LO = ~0xfff;
const RW = 3;
/**
 * For the test that compares what is repeated here with `fields` of the description: masks of the low half, of the high half, and both of
 * the address; `access` with src/memory/access.ts.
 */
export const REPEATED = { low: { R, W, X, PS, A, D, SNP }, high: {}, address: { address: [LO, HI] }, access: { RW } } as const;

const RETRIES = 16;

export interface VtdSecondStageConfig extends RadixConfig {
  readonly levels: 3 | 4 | 5;
  /** Host address width: address bits above it are reserved. Default 52. */
  readonly outputBits?: number;
  /** CAP.SSLPS. Default true. */
  readonly pages2M?: boolean;
  readonly pages1G?: boolean;
  /** ECAP.SC: the SNP bit may be set. Default true. */
  readonly snoopControl?: boolean;
  /** PASID table entry SSADE: accessed and dirty bits are set. Default false. */
  readonly accessedDirty?: boolean;
  /** Execute requests need X; otherwise they are reads. Default false. */
  readonly execute?: boolean;
}

/**
 * @example
 * const memory = GuestMemory.ofBytes(1 << 20);
 * let next = 16;
 * const allocator = { allocate: (pages) => (next += pages) - pages, free: () => {} };
 * const table = new VtdSecondStageTable(memory, { root: 8, levels: 4, allocator });
 * table.map(0x40, 0x99, 1, READ_WRITE); // 1: page 0x40 to page 0x99
 * table.walk(0, 0x40123, READ); // 12: lg2 of the page
 * table.out[0]; // 0x99123
 */
export class VtdSecondStageTable extends RadixTable {
  protected override readonly kept: readonly [number, number];
  // Fields that begin as what they are stay typed for the compiler; one that begins undefined is checked at each use.
  readonly #top: number = 0;
  readonly #rootHi: number = 0;
  readonly #rootLo: number = 0;
  readonly #reservedHi: number = 0;
  /** Bits that must be zero in the low half of an entry that maps a page, by level; PS where it must not map one. */
  readonly #reservedInLeaf: readonly number[];
  /** The same of level 0. */
  readonly #reservedInPage: number = 0;
  /** Access bits that count. */
  readonly #access: number = 0;
  readonly #accessed: number = 0;
  readonly #dirty: number = 0;
  /** First bit of the high half that is wider than the input. */
  readonly #excessShift: number = 0;

  constructor(memory: TableMemory, config: VtdSecondStageConfig) {
    requireParts('vtd-second-stage', memory, config);
    const { levels, root, outputBits = 52, pages2M = true, pages1G = true, snoopControl = true, accessedDirty = false } = config;
    if (![3, 4, 5].includes(levels)) throw new RangeError(`vtd-second-stage: ${levels} levels (3, 4 or 5)`);
    if (outputBits < 32 || outputBits > 52) throw new RangeError(`vtd-second-stage: ${outputBits} output bits (32 to 52)`);
    super(memory, config, describe(config));
    this.#top = levels - 1;
    this.#rootHi = hiOfPfn(root);
    this.#rootLo = loOfPfn(root);
    this.#reservedHi = RESERVED_62 | (ADDRESS_HI & ~(2 ** (outputBits - 32) - 1));
    this.kept = [EMT_IPAT | A | D | (snoopControl ? SNP : 0), 0];
    const snoop = snoopControl ? 0 : SNP;
    this.#reservedInPage = snoop;
    this.#reservedInLeaf = [snoop, pages2M ? snoop | (BELOW_2M & ~0xfff) : PS, pages1G ? snoop | (BELOW_1G & ~0xfff) : PS, PS, PS];
    this.#access = config.execute ? R | W | X : R | W;
    this.#accessed = accessedDirty ? A : 0;
    this.#dirty = accessedDirty ? D : 0;
    this.#excessShift = 9 * levels - 20;
  }

  /**
   * The usual case in a straight line, more than twice as fast as the loop: every entry grants what is asked, no large page,
   * nothing to be marked. Whatever is not usual starts over in `#walkAny`. The constants it uses are this module's own,
   * and not exported: only those the compiler folds.
   */
  walk(hi: number, lo: number, access: number): number {
    const memory = this.memory;
    const usual = this.#accessed | (access & RW);
    const unusual = usual | PS | SNP;
    const reservedHi = this.#reservedHi;
    const top = this.#top;
    if (hi >>> this.#excessShift !== 0 || (access & X) !== 0 || (access & RW) === 0) return this.#walkAny(hi, lo, access);
    let and = this.#access;
    let or = 0;
    let tableHi = this.#rootHi;
    let tableLo = this.#rootLo;
    let entryLo = 0;
    let entryHi = 0;
    if (top === 4) {
      if (memory.load64(tableHi, tableLo | ((hi >>> 13) & 0xff8)) < 0) return this.#walkAny(hi, lo, access);
      entryLo = word[0];
      entryHi = word[1];
      and &= entryLo;
      or = entryHi;
      if ((entryLo & unusual) !== usual || (or & reservedHi) !== 0) return this.#walkAny(hi, lo, access);
      tableHi = entryHi & HI;
      tableLo = entryLo & LO;
    }
    if (top >= 3) {
      if (memory.load64(tableHi, tableLo | ((hi >>> 4) & 0xff8)) < 0) return this.#walkAny(hi, lo, access);
      entryLo = word[0];
      entryHi = word[1];
      and &= entryLo;
      or |= entryHi;
      if ((entryLo & unusual) !== usual || (or & reservedHi) !== 0) return this.#walkAny(hi, lo, access);
      tableHi = entryHi & HI;
      tableLo = entryLo & LO;
    }
    if (memory.load64(tableHi, tableLo | (((lo >>> 27) | (hi << 5)) & 0xff8)) < 0) return this.#walkAny(hi, lo, access);
    entryLo = word[0];
    entryHi = word[1];
    and &= entryLo;
    or |= entryHi;
    if ((entryLo & unusual) !== usual || (or & reservedHi) !== 0) return this.#walkAny(hi, lo, access);
    if (memory.load64(entryHi & HI, (entryLo & LO) | ((lo >>> 18) & 0xff8)) < 0) return this.#walkAny(hi, lo, access);
    entryLo = word[0];
    entryHi = word[1];
    and &= entryLo;
    or |= entryHi;
    if ((entryLo & unusual) !== usual || (or & reservedHi) !== 0) return this.#walkAny(hi, lo, access);
    if (memory.load64(entryHi & HI, (entryLo & LO) | ((lo >>> 9) & 0xff8)) < 0) return this.#walkAny(hi, lo, access);
    entryLo = word[0];
    entryHi = word[1];
    const leafUsual = usual | ((access & W) !== 0 ? this.#dirty : 0);
    if ((entryLo & leafUsual) !== leafUsual || (entryLo & this.#reservedInPage) !== 0 || (entryHi & reservedHi) !== 0) {
      return this.#walkAny(hi, lo, access);
    }
    const out = this.out;
    out[0] = (entryLo & LO) | (lo & 0xfff);
    out[1] = entryHi & HI;
    out[2] = and & entryLo;
    out[3] = (entryLo & EMT_IPAT) >>> 3;
    return 12;
  }

  #walkAny(hi: number, lo: number, access: number): number {
    const top = this.#top;
    if (hi >>> this.#excessShift !== 0) return faultCode(FAULT_INPUT_SIZE, top);
    const memory = this.memory;
    let tableHi = this.#rootHi;
    let tableLo = this.#rootLo;
    let permission = this.#access;
    let retries = RETRIES;
    for (let level = top; ; ) {
      const at = tableLo | offsetIn(level, hi, lo);
      if (memory.load64(tableHi, at) < 0) return faultCode(FAULT_TABLE_ACCESS, level);
      const entryLo = word[0];
      const entryHi = word[1];
      if ((entryLo & this.#access) === 0) return faultCode(FAULT_NOT_PRESENT, level);
      const leaf = level === 0 || (entryLo & PS) !== 0;
      if ((entryHi & this.#reservedHi) !== 0 || (entryLo & (leaf ? this.#reservedInLeaf[level] : SNP)) !== 0) {
        return faultCode(FAULT_RESERVED, level);
      }
      let wanted = entryLo | this.#accessed;
      if (leaf) {
        const granted = permission & entryLo;
        if ((this.#wish(access) & ~granted) !== 0) return faultCode(FAULT_PERMISSION, level);
        if ((access & WRITE) !== 0) wanted |= this.#dirty;
        if (wanted === entryLo || memory.compareExchange64(tableHi, at, entryHi, entryLo, entryHi, wanted) === 1) {
          return this.#found(level, lo, entryHi, entryLo, granted);
        }
      } else if (wanted === entryLo || memory.compareExchange64(tableHi, at, entryHi, entryLo, entryHi, wanted) === 1) {
        permission &= entryLo;
        tableHi = entryHi & ADDRESS_HI;
        tableLo = entryLo & ~0xfff;
        level--;
        continue;
      }
      if (--retries === 0) return faultCode(FAULT_TABLE_ACCESS, level);
    }
  }

  /** Leaves the result of a walk in `out`. */
  #found(level: number, lo: number, entryHi: number, entryLo: number, permission: number): number {
    const lg2 = 12 + 9 * level;
    const inPage = (1 << lg2) - 1;
    const out = this.out;
    out[OUT_HI] = entryHi & ADDRESS_HI;
    out[OUT_LO] = (entryLo & ~inPage) | (lo & inPage);
    out[OUT_PERMISSION] = permission;
    out[OUT_TYPE] = (entryLo & EMT_IPAT) >>> 3;
    return lg2;
  }

  /** An execute request that is not told apart is a read. */
  #wish(access: number): number {
    const told = access & (R | W | X);
    return (told & X) !== 0 && (this.#access & X) === 0 ? (told & W) | R : told;
  }

  protected decode(level: number, hi: number, lo: number, into: Entry): number {
    if ((lo & this.#access) === 0) return ABSENT;
    const leaf = level === 0 || (lo & PS) !== 0;
    if ((hi & this.#reservedHi) !== 0 || (lo & (leaf ? this.#reservedInLeaf[level] : SNP)) !== 0) return MALFORMED;
    into.permission = lo & this.#access;
    into.lg2 = 12 + 9 * level;
    into.address = (hi & ADDRESS_HI) * 0x1_0000_0000 + ((lo & ~0xfff) >>> 0);
    into.next = level - 1;
    return leaf ? LEAF : TABLE;
  }

  protected encodeTable(_level: number, address: number): void {
    this.made[0] = address | 0 | this.#access;
    this.made[1] = address / 0x1_0000_0000;
  }

  protected encodeLeaf(level: number, _lg2: number, address: number, permission: number): void {
    this.made[0] = address | 0 | permission | (level > 0 ? PS : 0);
    this.made[1] = address / 0x1_0000_0000;
  }
}

function describe({ levels, outputBits = 52, pages2M = true, pages1G = true, execute = false }: VtdSecondStageConfig): Description {
  const access = [READ, WRITE, READ | WRITE];
  const leaf = [true, pages2M, pages1G, false, false];
  const all = Array.from({ length: levels }, (_, level) => ({ shift: 12 + 9 * level, bits: 9, leaf: leaf[level] }));
  return {
    format: 'vtd-second-stage',
    specification: 'Intel VT-d 4.1, 3.7 and 9.8',
    levels: all,
    inputBits: 12 + 9 * levels,
    canonical: false,
    outputBits,
    pageLg2s: all.filter((level) => level.leaf).map(({ shift }) => shift),
    permissions: execute ? [...access, ...access.map((bits) => bits | EXECUTE), EXECUTE] : access,
    fields: {
      R: [0, 0],
      W: [1, 1],
      X: [2, 2],
      EMT: [3, 5],
      IPAT: [6, 6],
      PS: [7, 7],
      A: [8, 8],
      D: [9, 9],
      SNP: [11, 11],
      address: [12, 51],
    },
  };
}
