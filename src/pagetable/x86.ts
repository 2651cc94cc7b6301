import { EXECUTE, hiOfPfn, loOfPfn, PRIVILEGED, READ, WRITE } from '../memory/index.ts';
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
 * x86-64 tables of 4 and 5 levels: Intel SDM volume 3A, 5.5 "4-level paging and 5-level paging"; what VT-d's first stage
 * (VT-d 4.1, 3.6 and 9.7) and AMD's v2 tables (AMD IOMMU 48882, 2.2.6) read too.
 *
 * level  entry         input bits  maps
 * 4      PML5E (FS-)   56:48       –
 * 3      PML4E         47:39       –
 * 2      PDPTE         38:30       1 GiB with PS
 * 1      PDE           29:21       2 MiB with PS
 * 0      PTE           20:12       4 KiB
 */

/** Bits of an entry's low half (SDM 5.5.4, tables 5-15 to 5-20; VT-d 9.7). */
const P = 1 << 0;
const RW = 1 << 1;
const US = 1 << 2;
const PWT = 1 << 3;
const PCD = 1 << 4;
const A = 1 << 5;
/** Leaf only. */
const D = 1 << 6;
/** PDPTE and PDE: maps a page, and then PAT is bit 12. Reserved in PML4E and PML5E. In a PTE it is PAT. */
const PS = 1 << 7;
/** Extended accessed: VT-d first stage with EAFE (VT-d 3.6.2). */
const EA = 1 << 10;
/** Bits of the high half. */
const XD = 1 << 31;

/** WRITE shifted left to D. */
const DIRTY_FOR_WRITE = 5;
/** An entry's address: ADDRESS_HI, and what is no flag of the low half. PRIVILEGED, READ, WRITE, EXECUTE. For `walk`. */
const HI = 0xf_ffff;
const LO = ~0xfff;
const PRIVILEGE = 8;
const READS = 1;
const WRITES = 2;
const EXECUTES = 4;
/**
 * For the test that compares what is repeated here with `fields` of the description: masks of the low half, of the high half, and both of
 * the address; `access` with src/memory/access.ts.
 */
export const REPEATED = {
  low: { P, RW, US, PWT, PCD, A, D, PS },
  high: { XD },
  address: { address: [LO, HI] },
  access: { PRIVILEGE, WRITE: D >> DIRTY_FOR_WRITE, READS, WRITES, EXECUTES },
} as const;

/** How often a walk looks again at an entry that somebody else changed while it was setting an accessed bit. */
const RETRIES = 16;

export interface X86Config extends RadixConfig {
  readonly levels: 4 | 5;
  /** Width of physical addresses: MAXPHYADDR, the host address width of VT-d. Bits above it are reserved. Default 52. */
  readonly outputBits?: number;
  /** 1 GiB pages (CPUID Page1GB, VT-d CAP.FS1GP). Default true. */
  readonly gigabytePages?: boolean;
  /** XD means no-execute (EFER.NXE); false: it is reserved. Default true. */
  readonly noExecute?: boolean;
  /** Privileged writes obey R/W too (CR0.WP, VT-d WPE). Default true. */
  readonly writeProtect?: boolean;
  /** Entries' EA bit is set beside A (VT-d EAFE). Default false. */
  readonly extendedAccessed?: boolean;
}

/**
 * @example
 * const memory = GuestMemory.ofBytes(1 << 20);
 * let next = 16;
 * const allocator = { allocate: (pages) => (next += pages) - pages, free: () => {} };
 * const table = new X86Table(memory, { root: 8, levels: 4, allocator });
 * table.map(0x40, 0x99, 1, READ_WRITE); // 1: page 0x40 to page 0x99
 * table.walk(0, 0x40123, READ); // 12: lg2 of the page
 * table.out[0]; // 0x99123
 */
export class X86Table extends RadixTable {
  protected readonly kept: readonly [number, number] = [PWT | PCD | A | D | EA, 0];
  // Fields that begin as what they are stay typed for the compiler; one that begins undefined is checked at each use.
  readonly #top: number = 0;
  readonly #rootHi: number = 0;
  readonly #rootLo: number = 0;
  /** Reserved bits of the high half, in every entry. */
  readonly #reservedHi: number = 0;
  /** Highest level whose entries may map a page. */
  readonly #largest: number = 0;
  /** XD, if it is not reserved. */
  readonly #executeDisable: number = 0;
  /** Wishes that are checked; without XD a fetch is a read. */
  readonly #checked: number = 0;
  readonly #writeProtect: boolean;
  readonly #accessed: number = 0;
  /** Bits that `walk` wants in every entry: present, accessed. */
  readonly #usual: number = 0;
  /** Bits of the high half below the sign. */
  readonly #signShift: number = 0;

  constructor(memory: TableMemory, config: X86Config) {
    requireParts('x86-64', memory, config);
    const { levels, root, outputBits = 52, gigabytePages = true, noExecute = true } = config;
    if (levels !== 4 && levels !== 5) throw new RangeError(`x86-64: ${levels} levels (4 or 5)`);
    if (outputBits < 32 || outputBits > 52) throw new RangeError(`x86-64: ${outputBits} output bits (32 to 52)`);
    super(memory, config, describe(levels, outputBits, gigabytePages, noExecute));
    this.#top = levels - 1;
    this.#rootHi = hiOfPfn(root);
    this.#rootLo = loOfPfn(root);
    this.#reservedHi = (ADDRESS_HI & ~(2 ** (outputBits - 32) - 1)) | (noExecute ? 0 : XD);
    this.#executeDisable = noExecute ? XD : 0;
    this.#checked = noExecute ? READ | WRITE | EXECUTE : READ | WRITE;
    this.#largest = gigabytePages ? 2 : 1;
    this.#writeProtect = config.writeProtect ?? true;
    this.#accessed = config.extendedAccessed ? A | EA : A;
    this.#usual = P | this.#accessed;
    this.#signShift = levels === 4 ? 15 : 24;
  }

  /**
   * The usual case in a straight line, more than twice as fast as the loop: every entry present and accessed, no large page,
   * nothing to be marked or refused. Whatever is not usual starts over in `#walkAny`. The constants it uses are this
   * module's own, and not exported: only those the compiler folds.
   */
  walk(hi: number, lo: number, access: number): number {
    const memory = this.memory;
    const usual = this.#usual;
    const reservedHi = this.#reservedHi;
    const sign = hi >> this.#signShift;
    if (sign !== 0 && sign !== -1) return this.#walkAny(hi, lo, access);
    const mask = usual | PS;
    let and = -1;
    let or = 0;
    let tableHi = this.#rootHi;
    let tableLo = this.#rootLo;
    if (this.#top === 4) {
      if (memory.load64(tableHi, tableLo | ((hi >>> 13) & 0xff8)) < 0) return this.#walkAny(hi, lo, access);
      and = word[0];
      or = word[1];
      if ((and & mask) !== usual || (or & reservedHi) !== 0) return this.#walkAny(hi, lo, access);
      tableHi = or & HI;
      tableLo = and & LO;
    }
    if (memory.load64(tableHi, tableLo | ((hi >>> 4) & 0xff8)) < 0) return this.#walkAny(hi, lo, access);
    let entryLo = word[0];
    let entryHi = word[1];
    and &= entryLo;
    or |= entryHi;
    if ((entryLo & mask) !== usual || (or & reservedHi) !== 0) return this.#walkAny(hi, lo, access);
    if (memory.load64(entryHi & HI, (entryLo & LO) | (((lo >>> 27) | (hi << 5)) & 0xff8)) < 0) return this.#walkAny(hi, lo, access);
    entryLo = word[0];
    entryHi = word[1];
    and &= entryLo;
    or |= entryHi;
    if ((entryLo & mask) !== usual || (or & reservedHi) !== 0) return this.#walkAny(hi, lo, access);
    if (memory.load64(entryHi & HI, (entryLo & LO) | ((lo >>> 18) & 0xff8)) < 0) return this.#walkAny(hi, lo, access);
    entryLo = word[0];
    entryHi = word[1];
    and &= entryLo;
    or |= entryHi;
    if ((entryLo & mask) !== usual || (or & reservedHi) !== 0) return this.#walkAny(hi, lo, access);
    if (memory.load64(entryHi & HI, (entryLo & LO) | ((lo >>> 9) & 0xff8)) < 0) return this.#walkAny(hi, lo, access);
    entryLo = word[0];
    entryHi = word[1];
    const leafUsual = usual | ((access << DIRTY_FOR_WRITE) & D);
    const permission = this.#permission(and & entryLo, or | entryHi, access & PRIVILEGE);
    if ((entryLo & leafUsual) !== leafUsual || (entryHi & reservedHi) !== 0 || (access & ~permission & this.#checked) !== 0) {
      return this.#walkAny(hi, lo, access);
    }
    const out = this.out;
    out[0] = (entryLo & LO) | (lo & 0xfff);
    out[1] = entryHi & HI;
    out[2] = permission;
    out[3] = ((entryLo >>> 3) & 3) | ((entryLo >>> 5) & 4);
    return 12;
  }

  #walkAny(hi: number, lo: number, access: number): number {
    const top = this.#top;
    const sign = hi >> this.#signShift;
    if (sign !== 0 && sign !== -1) return faultCode(FAULT_INPUT_SIZE, top);
    const memory = this.memory;
    let tableHi = this.#rootHi;
    let tableLo = this.#rootLo;
    let andLo = RW | US;
    let orHi = 0;
    let retries = RETRIES;
    for (let level = top; ; ) {
      const at = tableLo | offsetIn(level, hi, lo);
      if (memory.load64(tableHi, at) < 0) return faultCode(FAULT_TABLE_ACCESS, level);
      const entryLo = word[0];
      const entryHi = word[1];
      if ((entryLo & P) === 0) return faultCode(FAULT_NOT_PRESENT, level);
      const leaf = level === 0 || (entryLo & PS) !== 0;
      if ((entryHi & this.#reservedHi) !== 0 || (leaf && (entryLo & this.#reservedLo(level)) !== 0))
        return faultCode(FAULT_RESERVED, level);
      let wanted = entryLo | this.#accessed;
      if (leaf) {
        const permission = this.#permission(andLo & entryLo, orHi | entryHi, access & PRIVILEGED);
        if ((access & ~permission & this.#checked) !== 0) return faultCode(FAULT_PERMISSION, level);
        if ((access & WRITE) !== 0) wanted |= D;
        if (wanted === entryLo || memory.compareExchange64(tableHi, at, entryHi, entryLo, entryHi, wanted) === 1) {
          return this.#found(level, lo, entryHi, entryLo, permission);
        }
      } else if (wanted === entryLo || memory.compareExchange64(tableHi, at, entryHi, entryLo, entryHi, wanted) === 1) {
        andLo &= entryLo;
        orHi |= entryHi;
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
    out[OUT_LO] = (entryLo & ~0xfff & ~inPage) | (lo & inPage);
    out[OUT_PERMISSION] = permission;
    out[OUT_TYPE] = ((entryLo >>> 3) & 3) | ((entryLo >>> (level === 0 ? 5 : 10)) & 4);
    return lg2;
  }

  /** Rights of an access from the R/W and U/S bits that all entries of the path have and the XD bit that one of them has (SDM 5.6). */
  #permission(andLo: number, orHi: number, privileged: number): number {
    if (privileged === 0 && (andLo & US) === 0) return 0;
    const writable = (andLo & RW) !== 0 || (privileged !== 0 && !this.#writeProtect);
    return READS | (writable ? WRITES : 0) | (orHi < 0 ? 0 : this.#checked & EXECUTES);
  }

  /** Bits that must be zero in the low half of a leaf (SDM tables 5-15, 5-17, 5-19). */
  #reservedLo(level: number): number {
    if (level === 0) return 0;
    if (level > this.#largest) return PS;
    return (level === 1 ? BELOW_2M : BELOW_1G) & ~0x1fff;
  }

  protected decode(level: number, hi: number, lo: number, into: Entry): number {
    if ((lo & P) === 0) return ABSENT;
    const leaf = level === 0 || (lo & PS) !== 0;
    if ((hi & this.#reservedHi) !== 0 || (leaf && (lo & this.#reservedLo(level)) !== 0)) return MALFORMED;
    into.permission = this.#permission(lo, hi, 0);
    into.lg2 = 12 + 9 * level;
    into.address = (hi & ADDRESS_HI) * 0x1_0000_0000 + ((lo & ~(leaf && level > 0 ? 0x1fff : 0xfff)) >>> 0);
    into.next = level - 1;
    return leaf ? LEAF : TABLE;
  }

  protected encodeTable(_level: number, address: number): void {
    this.made[0] = address | 0 | P | RW | US;
    this.made[1] = address / 0x1_0000_0000;
  }

  protected encodeLeaf(level: number, _lg2: number, address: number, permission: number): void {
    this.made[0] = address | 0 | P | US | ((permission & WRITE) !== 0 ? RW : 0) | (level > 0 ? PS : 0);
    this.made[1] = (address / 0x1_0000_0000) | ((permission & EXECUTE) !== 0 ? 0 : this.#executeDisable);
  }
}

function describe(levels: number, outputBits: number, gigabytePages: boolean, noExecute: boolean): Description {
  const largest = gigabytePages ? 2 : 1;
  return {
    format: 'x86-64',
    specification: 'Intel SDM volume 3A, 5.5; VT-d 4.1, 9.7; AMD IOMMU 48882 rev 3.10, 2.2.6',
    levels: Array.from({ length: levels }, (_, level) => ({ shift: 12 + 9 * level, bits: 9, leaf: level <= largest })),
    inputBits: 12 + 9 * levels,
    canonical: true,
    outputBits,
    pageLg2s: gigabytePages ? [12, 21, 30] : [12, 21],
    permissions: noExecute ? [READ, READ | WRITE, READ | EXECUTE, READ | WRITE | EXECUTE] : [READ, READ | WRITE],
    fields: {
      P: [0, 0],
      RW: [1, 1],
      US: [2, 2],
      PWT: [3, 3],
      PCD: [4, 4],
      A: [5, 5],
      D: [6, 6],
      PS: [7, 7],
      address: [12, 51],
      XD: [63, 63],
    },
  };
}
