import { READ, READ_WRITE, WRITE } from '../memory/access.ts';
import { hiOfPfn, loOfPfn } from '../memory/address.ts';
import { LOADED } from '../memory/loaded.ts';
import {
  type Description,
  FAULT_INPUT_SIZE,
  FAULT_NOT_PRESENT,
  FAULT_PERMISSION,
  FAULT_TABLE_ACCESS,
  faultCode,
  OUT_HI,
  OUT_LO,
  OUT_PERMISSION,
  OUT_TYPE,
  type TableMemory,
} from './page-table.ts';
import { ABSENT, type Entry, LEAF, type RadixConfig, RadixTable, TABLE } from './radix.ts';
import { requireParts } from './radix-reader.ts';

/** LOADED, here because the compiler folds a module's own constants only. */
const word = LOADED;

/*
 * POWER translation control entries (TCEs): one level as in Linux on Power Architecture Reference 2.9, "DMA Address Translation
 * and Control via the TCE Mechanism"; one to five levels as the I/O Design Architecture (IODA2, IODA3) of POWER8 and POWER9
 * host bridges walks them. Entries are 64 bits, big-endian.
 *
 *   level      index bits                            entry maps
 *   0          table size / 8, alike on all levels   one I/O page: 4 KiB, 64 KiB, 2 MiB, 16 MiB, 256 MiB, …
 *   1 to 4     the same                              tables only
 *
 * An entry is real page number and two bits: read, write. Both clear: absent. In an indirect entry either bit makes it
 * present, and neither takes anything away from the entries below.
 */

/** The two low bits of an entry; they are READ and WRITE as they stand. */
const PRESENT = READ_WRITE;

export interface TceTableConfig extends RadixConfig {
  /** 1 to 5: TVE "number of levels" + 1. */
  readonly levels: number;
  /** lg2 of the entries of each table, 9 or more: TVE "TCE table size" + 8. */
  readonly indexBits: number;
  /** lg2 of the I/O page size: TVE "I/O page size" + 11. */
  readonly pageLg2: number;
}

/**
 * @throws RangeError when the levels are not 1 to 5, a table is smaller than a page, or the input wider than 64 bits.
 *
 * @example
 * const memory = GuestMemory.ofBytes(1 << 20);
 * let next = 16;
 * const allocator = { allocate: (pages) => (next += pages) - pages, free: () => {} };
 * const table = new TceTable(memory, { root: 8, levels: 1, indexBits: 9, pageLg2: 12, allocator });
 * table.map(0x40, 0x99, 1, READ_WRITE); // 1: page 0x40 to page 0x99
 * table.walk(0, 0x40123, READ); // 12: lg2 of the page
 * table.out[0]; // 0x99123
 */
export class TceTable extends RadixTable {
  protected override readonly kept: readonly [number, number] = [0, 0];
  readonly #top: number;
  readonly #rootHi: number;
  readonly #rootLo: number;
  readonly #pageLg2: number;
  readonly #indexBits: number;
  readonly #indexMask: number;
  /** Tables are aligned to their size; the bits below are not looked at. */
  readonly #origin: number;
  readonly #excessHi: number;
  readonly #excessLo: number;

  constructor(memory: TableMemory, config: TceTableConfig) {
    requireParts('TCE table', memory, config);
    const { levels, indexBits, pageLg2 } = config;
    const inputBits = pageLg2 + levels * indexBits;
    if (!(levels >= 1 && levels <= 5)) throw new RangeError(`TCE table: ${levels} levels are not 1 to 5`);
    if (!(pageLg2 >= 12 && indexBits >= 9 && indexBits <= 28 && inputBits <= 64))
      throw new RangeError(`TCE table: ${levels} levels of 2^${indexBits} entries and pages of 2^${pageLg2} bytes`);
    const origin = -(2 ** (indexBits + 3));
    super(memory, config, describe(config, inputBits));
    this.#top = levels - 1;
    this.#rootHi = hiOfPfn(config.root);
    this.#rootLo = loOfPfn(config.root) & origin;
    this.#pageLg2 = pageLg2;
    this.#indexBits = indexBits;
    this.#indexMask = 2 ** indexBits - 1;
    this.#origin = origin;
    this.#excessHi = inputBits === 64 ? 0 : inputBits <= 32 ? -1 : -(2 ** (inputBits - 32));
    this.#excessLo = inputBits < 32 ? -(2 ** inputBits) : 0;
  }

  walk(hi: number, lo: number, access: number): number {
    const { memory } = this;
    let level = this.#top;
    if (((hi & this.#excessHi) | (lo & this.#excessLo)) !== 0) return faultCode(FAULT_INPUT_SIZE, level);
    let shift = this.#pageLg2 + this.#indexBits * level;
    let tableHi = this.#rootHi;
    let tableLo = this.#rootLo;
    for (; ; level--) {
      const index = (shift < 32 ? (lo >>> shift) | (hi << (32 - shift)) : hi >>> (shift - 32)) & this.#indexMask;
      if (memory.load64BE(tableHi, tableLo | (index << 3)) < 0) return faultCode(FAULT_TABLE_ACCESS, level);
      tableLo = word[0];
      tableHi = word[1];
      if ((tableLo & PRESENT) === 0) return faultCode(FAULT_NOT_PRESENT, level);
      if (level === 0) break;
      tableLo &= this.#origin;
      shift -= this.#indexBits;
    }
    if ((access & READ_WRITE & ~tableLo) !== 0) return faultCode(FAULT_PERMISSION, 0);
    const { out } = this;
    if (shift < 32) {
      const offset = (1 << shift) - 1;
      out[OUT_LO] = (tableLo & ~offset) | (lo & offset);
      out[OUT_HI] = tableHi;
    } else {
      const offset = 2 ** (shift - 32) - 1;
      out[OUT_LO] = lo;
      out[OUT_HI] = (tableHi & ~offset) | (hi & offset);
    }
    out[OUT_PERMISSION] = tableLo & READ_WRITE;
    out[OUT_TYPE] = 0;
    return shift;
  }

  protected override load(hi: number, lo: number): number {
    return this.memory.load64BE(hi, lo);
  }
  protected override store(hi: number, lo: number, valueHi: number, valueLo: number): number {
    return this.memory.store64BE(hi, lo, valueHi, valueLo);
  }

  protected override decode(level: number, hi: number, lo: number, into: Entry): number {
    if ((lo & PRESENT) === 0) return ABSENT;
    const address = (hi >>> 0) * 0x1_0000_0000 + ((lo & -4096) >>> 0);
    const bytes = 2 ** (level === 0 ? this.#pageLg2 : this.#indexBits + 3);
    into.address = address - (address % bytes);
    into.next = level - 1;
    into.lg2 = this.#pageLg2;
    into.permission = level === 0 ? lo & READ_WRITE : READ_WRITE;
    return level === 0 ? LEAF : TABLE;
  }

  protected override encodeTable(_level: number, address: number): void {
    this.#encode(address, READ_WRITE);
  }

  protected override encodeLeaf(_level: number, _lg2: number, address: number, permission: number): void {
    this.#encode(address, permission);
  }

  #encode(address: number, permission: number): void {
    this.made[0] = address | permission;
    this.made[1] = address / 0x1_0000_0000;
  }
}

function describe({ levels, indexBits, pageLg2 }: TceTableConfig, inputBits: number): Description {
  return {
    format: 'tce',
    specification: 'LoPAR 2.9, DMA Address Translation and Control via the TCE Mechanism; IODA2/IODA3 for more than one level',
    levels: Array.from({ length: levels }, (_, level) => ({ shift: pageLg2 + indexBits * level, bits: indexBits, leaf: level === 0 })),
    inputBits,
    canonical: false,
    outputBits: 64,
    pageLg2s: [pageLg2],
    permissions: [READ, WRITE, READ_WRITE],
    fields: { read: [0, 0], write: [1, 1], realPageNumber: [12, 63] },
  };
}
