import { READ, READ_WRITE, WRITE } from '../memory/access.ts';
import { hiOfPfn, loOfPfn } from '../memory/address.ts';
import { LOADED } from '../memory/loaded.ts';
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

/*
 * s390 region, segment and page tables, as a zPCI function's I/O translation anchor designates them: z/Architecture Principles
 * of Operation (SA22-7832), chapter 3, "Dynamic Address Translation". Entries are 64 bits, big-endian.
 *
 *   level  table           index bits  entry maps
 *   0      page            8           4 KiB
 *   1      segment         11          1 MiB with format control (EDAT-1)
 *   2      region third    11          2 GiB with format control (EDAT-2)
 *   3      region second   11          -
 *   4      region first    11          -
 *
 * What I/O translation asks beyond DAT: region tables have their full length (the function's error event "invalid table
 * length" else), and an entry of all zeros is invalid ("invalid table entry"), although DAT has no such rule.
 */

/** Region- and segment-table entries, low half. */
const TYPE = 3 << 2;
const INVALID = 1 << 5;
/** Table offset 0 and length 3: the table below has all of its four parts. */
const TABLE_BOUNDS = 0xc3;
const FULL_TABLE = 3;
/** Page-table entries: what is FORMAT_CONTROL elsewhere says invalid here, and bit 52 is zero. */
const PAGE_INVALID = 1 << 10;
const PAGE_ZERO = 1 << 11;
/** One of bits 56 to 63, which belong to programs: makes the entry that maps page 0 other than zero. */
const PAGE_USED = 1;
/** Every entry, and the anchor. */
const PROTECTED = 1 << 9;
const FORMAT_CONTROL = 1 << 10;

/** A page table fills half of a 4 KiB page. */
const PAGE_TABLE_ORIGIN = -(1 << 11);
const TABLE_ORIGIN = -(1 << 14);
/** For the test that compares what is repeated here with `fields` of the description: masks of the low half, of the high half, and both of the address. */
export const REPEATED = {
  low: {
    protection: PROTECTED,
    formatControl: FORMAT_CONTROL,
    pageInvalid: PAGE_INVALID,
    invalid: INVALID,
    tableType: TYPE,
    tableLength: FULL_TABLE,
  },
  high: {},
  address: {},
} as const;

export interface S390TableConfig extends RadixConfig {
  /** 2 to 5: the anchor designates a segment table, or a region third, second or first table. */
  readonly levels: number;
  /** The anchor's protection bit: nothing can be written. Default false. */
  readonly protected?: boolean;
  /** Enhanced DAT: 1 has pages of 1 MiB, 2 those of 2 GiB too. Default 1, as zPCI has it. */
  readonly edat?: 0 | 1 | 2;
}

/**
 * @throws RangeError when there are not 2 to 5 levels.
 *
 * @example
 * const memory = GuestMemory.ofBytes(1 << 20);
 * let next = 16;
 * const allocator = { allocate: (pages) => (next += pages) - pages, free: () => {} };
 * const table = new S390Table(memory, { root: 8, levels: 3, allocator });
 * table.map(0x40, 0x99, 1, READ_WRITE); // 1: page 0x40 to page 0x99
 * table.walk(0, 0x40123, READ); // 12: lg2 of the page
 * table.out[0]; // 0x99123
 */
export class S390Table extends RadixTable {
  protected override readonly kept: readonly [number, number] = [0, 0];
  readonly #top: number;
  readonly #rootHi: number;
  readonly #rootLo: number;
  readonly #excess: number;
  readonly #protected: number;
  readonly #topLeaf: number;
  /** By level: lg2 of what an entry maps, and which bits of it are the frame's address. */
  readonly #lg2s: readonly number[];
  readonly #frameOrigins: readonly number[];

  constructor(memory: TableMemory, config: S390TableConfig) {
    requireParts('s390 table', memory, config);
    const { levels, edat = 1 } = config;
    if (!(levels >= 2 && levels <= 5)) throw new RangeError(`s390 table: ${levels} levels are not 2 to 5`);
    super(memory, config, describe(levels, edat, config.protected ?? false));
    this.#top = levels - 1;
    this.#rootHi = hiOfPfn(config.root);
    this.#rootLo = loOfPfn(config.root) & TABLE_ORIGIN;
    // 31 bits for the segment table, 42, 53 and 64 for the others.
    this.#excess = levels === 5 ? 0 : levels === 2 ? -1 : -(1 << (11 * levels - 23));
    this.#protected = config.protected ? PROTECTED : 0;
    this.#topLeaf = edat;
    this.#lg2s = this.description.levels.map(({ shift }) => shift);
    this.#frameOrigins = this.#lg2s.map((lg2) => ~(2 ** lg2 - 1));
  }

  walk(hi: number, lo: number, access: number): number {
    const { memory } = this;
    let level = this.#top;
    if ((hi & this.#excess) !== 0 || (level === 1 && lo < 0)) return faultCode(FAULT_INPUT_SIZE, level);
    let tableHi = this.#rootHi;
    let tableLo = this.#rootLo;
    let protection = this.#protected;
    for (; level > 0; level--) {
      const shift = 9 + 11 * level;
      const index = (shift < 32 ? (lo >>> shift) | (hi << (32 - shift)) : hi >>> (shift - 32)) & 0x7ff;
      if (memory.load64BE(tableHi, tableLo | (index << 3)) < 0) return faultCode(FAULT_TABLE_ACCESS, level);
      tableLo = word[0];
      tableHi = word[1];
      if ((tableLo & INVALID) !== 0) return faultCode(FAULT_NOT_PRESENT, level);
      if ((tableLo | tableHi) === 0 || (tableLo & TYPE) >>> 2 !== level - 1) return faultCode(FAULT_RESERVED, level);
      protection |= tableLo & PROTECTED;
      if ((tableLo & FORMAT_CONTROL) !== 0 && level <= this.#topLeaf) return this.#found(lo, access, level, tableHi, tableLo, protection);
      if (level > 1 && (tableLo & TABLE_BOUNDS) !== FULL_TABLE) return faultCode(FAULT_RESERVED, level);
      tableLo &= level > 1 ? TABLE_ORIGIN : PAGE_TABLE_ORIGIN;
    }
    if (memory.load64BE(tableHi, tableLo | ((lo >>> 9) & 0x7f8)) < 0) return faultCode(FAULT_TABLE_ACCESS, 0);
    const pageLo = word[0];
    const pageHi = word[1];
    if ((pageLo & PAGE_INVALID) !== 0) return faultCode(FAULT_NOT_PRESENT, 0);
    if ((pageLo & PAGE_ZERO) !== 0 || (pageLo | pageHi) === 0) return faultCode(FAULT_RESERVED, 0);
    return this.#found(lo, access, 0, pageHi, pageLo, protection | (pageLo & PROTECTED));
  }

  #found(lo: number, access: number, level: number, outHi: number, outLo: number, protection: number): number {
    if ((access & WRITE) !== 0 && protection !== 0) return faultCode(FAULT_PERMISSION, level);
    const lg2 = level === 0 ? 12 : 9 + 11 * level;
    const offset = 2 ** lg2 - 1;
    const { out } = this;
    out[OUT_LO] = (outLo & ~offset) | (lo & offset);
    out[OUT_HI] = outHi;
    out[OUT_PERMISSION] = protection === 0 ? READ_WRITE : READ;
    out[OUT_TYPE] = 0;
    return lg2;
  }

  protected override load(hi: number, lo: number): number {
    return this.memory.load64BE(hi, lo);
  }
  protected override store(hi: number, lo: number, valueHi: number, valueLo: number): number {
    return this.memory.store64BE(hi, lo, valueHi, valueLo);
  }

  protected override decode(level: number, hi: number, lo: number, into: Entry): number {
    if ((lo | hi) === 0 || (lo & (level === 0 ? PAGE_INVALID : INVALID)) !== 0) return ABSENT;
    if (level === 0 ? (lo & PAGE_ZERO) !== 0 : (lo & TYPE) >>> 2 !== level - 1) return MALFORMED;
    into.permission = this.#protected | (lo & PROTECTED) ? READ : READ_WRITE;
    const isLeaf = level === 0 || ((lo & FORMAT_CONTROL) !== 0 && level <= this.#topLeaf);
    if (!isLeaf && level > 1 && (lo & TABLE_BOUNDS) !== FULL_TABLE) return MALFORMED;
    into.next = level - 1;
    into.lg2 = this.#lg2s[level];
    const origin = isLeaf ? this.#frameOrigins[level] : level > 1 ? TABLE_ORIGIN : PAGE_TABLE_ORIGIN;
    into.address = (hi >>> 0) * 0x1_0000_0000 + ((lo & origin) >>> 0);
    return isLeaf ? LEAF : TABLE;
  }

  /** An entry of zeros would be malformed, not invalid. */
  protected override absentLo(level: number): number {
    return level === 0 ? PAGE_INVALID : INVALID;
  }

  protected override encodeTable(level: number, address: number): void {
    this.#encode(address, level === 1 ? 0 : ((level - 1) << 2) | FULL_TABLE);
  }

  protected override encodeLeaf(level: number, _lg2: number, address: number, permission: number): void {
    const type = level === 0 ? PAGE_USED : FORMAT_CONTROL | ((level - 1) << 2);
    this.#encode(address, type | (permission & WRITE ? 0 : PROTECTED));
  }

  #encode(address: number, lo: number): void {
    this.made[0] = address | lo;
    this.made[1] = address / 0x1_0000_0000;
  }
}

function describe(levels: number, edat: number, isProtected: boolean): Description {
  return {
    format: 's390',
    specification: 'z/Architecture Principles of Operation (SA22-7832), chapter 3, Dynamic Address Translation',
    levels: Array.from({ length: levels }, (_, level) => ({
      shift: level === 0 ? 12 : 9 + 11 * level,
      bits: level === 0 ? 8 : 11,
      leaf: level <= edat,
    })),
    inputBits: 9 + 11 * levels,
    canonical: false,
    outputBits: 64,
    pageLg2s: [12, 20, 31].slice(0, Math.min(levels, edat + 1)),
    permissions: isProtected ? [READ] : [READ, READ_WRITE],
    fields: {
      origin: [12, 63],
      protection: [9, 9],
      formatControl: [10, 10],
      pageInvalid: [10, 10],
      invalid: [5, 5],
      tableOffset: [6, 7],
      tableType: [2, 3],
      tableLength: [0, 1],
    },
  };
}
