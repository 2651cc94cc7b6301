import { EXECUTE, READ, READ_WRITE, WRITE } from '../memory/access.ts';
import { hiOfPfn, loOfPfn } from '../memory/address.ts';
import { requireObject } from '../memory/arguments.ts';
import { LOADED } from '../memory/loaded.ts';
import {
  FAULT_ACCESS_FLAG,
  FAULT_INPUT_SIZE,
  FAULT_NOT_PRESENT,
  FAULT_PERMISSION,
  FAULT_RESERVED,
  FAULT_TABLE_ACCESS,
  faultCode,
  OUT_HI,
  OUT_LENGTH,
  OUT_LO,
  OUT_PERMISSION,
  OUT_TYPE,
  type TableMemory,
} from './page-table.ts';
import { ABSENT, type Entry, LEAF, MALFORMED, RadixTable, TABLE } from './radix.ts';
import { requireParts } from './radix-reader.ts';
import { describe, inputBitsOf, LEVELS, type RiscvTableConfig } from './riscv-format.ts';

/** LOADED, here because the compiler folds a module's own constants only. */
const word = LOADED;

/* The walker and the entries of RISC-V tables; sections are those of riscv-format.ts. */

/** Entry bits, low half (11.4.1, "Addressing and Memory Protection"). */
const PTE_V = 1;
const PTE_R = 1 << 1;
const PTE_W = 1 << 2;
const PTE_X = 1 << 3;
export const PTE_U = 1 << 4;
export const PTE_G = 1 << 5;
const PTE_A = 1 << 6;
export const PTE_D = 1 << 7;
/** What a pointer has not set beside V. */
const NOT_OF_A_POINTER = PTE_V | PTE_R | PTE_W | PTE_X | PTE_U | PTE_A | PTE_D;
/** Entry bits, high half: PPN above bit 31 of the entry, Svrsw60t59b, Svpbmt, Svnapot. */
const PPN_HI = 0x3f_ffff;
const RESERVED_HI = 0x07c0_0000;
const RSW_HI = 0x1800_0000;
const PBMT_HI = 0x6000_0000;
const PBMT_SHIFT = 29;
const N_HI = 0x8000_0000 | 0;
/** READ, WRITE and EXECUTE, here because the compiler folds a module's own constants only. */
const RWX = 7;
const WRITING = 2;
const AS_SUPERVISOR = 8;
/**
 * For the test that compares what is repeated here with `fields` of the description: masks of the low half, of the high half, and both of
 * the address; `access` with src/memory/access.ts.
 */
export const REPEATED = {
  low: { V: PTE_V, R: PTE_R, W: PTE_W, X: PTE_X, U: PTE_U, G: PTE_G, A: PTE_A, D: PTE_D },
  high: { PBMT: PBMT_HI, N: N_HI },
  address: { PPN: [-0x400, PPN_HI] },
  access: { RWX, WRITING, AS_SUPERVISOR },
} as const;

/** PBMT values (chapter "Svpbmt"), what a walk leaves in OUT_TYPE. */
export const PBMT_PMA = 0;

/** Index into `out`, after OUT_TYPE: the low eight bits of the leaf (PTE_*) as the walk found them, G that of the whole path. */
export const OUT_LEAF = OUT_LENGTH;

/** A wish: permissions that lack are answered in OUT_PERMISSION, not faulted (PCIe ATS translation requests). */
export const PROBE = 1 << 8;
/** A wish: a leaf that grants writing is marked dirty (18.5.1: an implicit access may, ahead of an update of the first stage's entry). */
export const MARK_DIRTY = 1 << 9;

const READ_EXECUTE = READ | EXECUTE;

/** How often a walk starts a level again because somebody else changed the entry meanwhile. */
const RETRIES = 16;

/**
 * One table; src/pagetable/riscv-format.ts has its specification and levels.
 *
 * @example
 * const memory = GuestMemory.ofBytes(1 << 20);
 * let next = 16;
 * const allocator = { allocate: (pages) => (next += pages) - pages, free: () => {} };
 * const table = new RiscvTable({ memory, root: 8, mode: 'sv39', allocator, updateAccessedDirty: true });
 * table.map(0x40, 0x99, 1, READ_WRITE); // 1: page 0x40 to page 0x99
 * table.walk(0, 0x40123, READ); // 12: lg2 of the page
 * table.out[0]; // 0x99123
 */
export class RiscvTable extends RadixTable {
  override readonly out = new Int32Array(OUT_LENGTH + 1);
  /** Accessed, dirty, global, memory type. */
  protected readonly kept: readonly [number, number] = [PTE_A | PTE_D | PTE_G, PBMT_HI];
  /** Entries read so far, those read again to be updated included: what an IOMMU's performance counters count. Wraps. */
  reads = 0;
  readonly #memory: TableMemory;
  readonly #rootHi: number;
  readonly #rootLo: number;
  readonly #top: number;
  readonly #indexBits: number;
  readonly #indexMask: number;
  readonly #rootMask: number;
  readonly #narrow: boolean;
  /** Entries of 8 bytes, little-endian. */
  readonly #usual: boolean;
  readonly #bigEndian: boolean;
  readonly #secondStage: boolean;
  readonly #signExtended: boolean;
  /** Bits of the high half that lie above the input's width. */
  readonly #excess: number;
  readonly #reserved: number;
  readonly #update: boolean;
  readonly #sum: boolean;
  /** The leaf entry in hand: where it lies, and the G bits above it. */
  #entryHi = 0;
  #entryLo = 0;
  #global = 0;

  constructor(config: RiscvTableConfig) {
    requireObject('RISC-V table', 'config', config);
    const { mode, memory, secondStage = false } = config;
    requireParts('RISC-V table', memory, config);
    if (!Object.hasOwn(LEVELS, mode))
      throw new RangeError(`RISC-V table: mode ${String(mode)} is none of ${Object.keys(LEVELS).join(', ')}`);
    super(memory, config, describe(config), mode === 'sv32' ? 4 : 8);
    this.#memory = memory;
    this.#rootHi = hiOfPfn(config.root);
    this.#rootLo = loOfPfn(config.root);
    this.#top = LEVELS[mode] - 1;
    this.#narrow = mode === 'sv32';
    this.#indexBits = this.#narrow ? 10 : 9;
    this.#indexMask = (1 << this.#indexBits) - 1;
    this.#rootMask = secondStage ? this.#indexMask * 4 + 3 : this.#indexMask;
    this.#bigEndian = config.bigEndian ?? false;
    this.#usual = !this.#narrow && !this.#bigEndian;
    this.#secondStage = secondStage;
    this.#signExtended = !secondStage && !this.#narrow;
    this.#excess = 64 - inputBitsOf(config);
    this.#reserved = RESERVED_HI | (config.svrsw60t59b ? 0 : RSW_HI) | (config.svpbmt ? 0 : PBMT_HI);
    this.#update = config.updateAccessedDirty ?? false;
    this.#sum = config.sum ?? false;
  }

  /**
   * The steps of 11.3.2, "Virtual Address Translation Process". Returns lg2 of the page's bytes or a fault code; see
   * PageTable.walk. PROBE and MARK_DIRTY are understood beside the wishes of src/memory/access.ts.
   */
  walk(hi: number, lo: number, access: number): number {
    let level = this.#top;
    // Step 1, and 11.4.1: the bits above the input's width equal its highest bit; for Sv32 and the second stages they are zero.
    const excess = this.#excess;
    if (this.#signExtended ? (hi << excess) >> excess !== hi : excess === 32 ? hi !== 0 : hi >>> (32 - excess) !== 0)
      return faultCode(FAULT_INPUT_SIZE, level);
    const shift = 12 + level * this.#indexBits;
    const index = (shift < 32 ? (lo >>> shift) | (hi << (32 - shift)) : hi >>> (shift - 32)) & this.#rootMask;
    let entryHi = this.#rootHi;
    let entryLo = this.#rootLo | (this.#narrow ? index << 2 : index << 3);
    this.#global = 0;
    if (this.#usual) {
      // Down the pointers that have V and at most G set, one level after the other, with shifts that the compiler knows.
      const memory = this.#memory;
      let global = 0;
      for (; level > 0; level--) {
        if (memory.load64(entryHi, entryLo) < 0) return this.#unreadable(level);
        const pteLo = word[0];
        const pteHi = word[1];
        if ((pteLo & NOT_OF_A_POINTER) !== PTE_V || pteHi >>> 22 !== 0) break;
        global |= pteLo & PTE_G;
        entryHi = (pteHi << 2) | (pteLo >>> 30);
        entryLo =
          ((pteLo & ~0x3ff) << 2) |
          ((level === 1 ? lo >>> 9 : level === 2 ? lo >>> 18 : level === 3 ? (lo >>> 27) | (hi << 5) : hi >>> 4) & 0xff8);
        this.reads = (this.reads + 1) | 0;
      }
      this.#global = global;
      if (level === 0 && memory.load64(entryHi, entryLo) < 0) return this.#unreadable(0);
    } else if (this.load(entryHi, entryLo) < 0) {
      return this.#unreadable(level);
    }
    this.#entryHi = entryHi;
    this.#entryLo = entryLo;
    return this.#descend(hi, lo, access, level);
  }

  /** Steps 3 to 8 from the entry of `level` in `word` on. */
  #descend(hi: number, lo: number, access: number, from: number): number {
    let retries = RETRIES;
    for (let level = from; ; ) {
      this.reads = (this.reads + 1) | 0;
      const pteLo = word[0];
      const pteHi = word[1];
      // Step 3: valid, and nothing reserved set; PBMT 3 is reserved (Svpbmt), and N above the leaf level (Svnapot).
      if ((pteLo & PTE_V) === 0) return faultCode(FAULT_NOT_PRESENT, level);
      if (
        (pteLo & (PTE_R | PTE_W)) === PTE_W ||
        (pteHi & this.#reserved) !== 0 ||
        (pteHi & PBMT_HI) === PBMT_HI ||
        (pteHi < 0 && level !== 0)
      )
        return faultCode(FAULT_RESERVED, level);
      if ((pteLo & (PTE_R | PTE_X)) !== 0) {
        const result = this.#leaf(hi, lo, access, level);
        if (result !== 0) return result;
        // Step 7: the entry changed meanwhile; look again.
        if (--retries === 0) return faultCode(FAULT_TABLE_ACCESS, level);
      } else {
        // Step 4: a pointer to the next level; D, A, U, PBMT and N are reserved in it (11.4.1).
        if (level === 0 || (pteLo & (PTE_D | PTE_A | PTE_U)) !== 0 || (pteHi & (PBMT_HI | N_HI)) !== 0)
          return faultCode(FAULT_RESERVED, level);
        level--;
        const shift = 12 + level * this.#indexBits;
        const index = (shift < 32 ? (lo >>> shift) | (hi << (32 - shift)) : hi >>> (shift - 32)) & this.#indexMask;
        this.#global |= pteLo & PTE_G;
        this.#entryHi = ((pteHi & PPN_HI) << 2) | (pteLo >>> 30);
        this.#entryLo = ((pteLo & ~0x3ff) << 2) | (this.#narrow ? index << 2 : index << 3);
      }
      if (this.load(this.#entryHi, this.#entryLo) < 0) return this.#unreadable(level);
    }
  }

  /** Step 2: the entry cannot be read. */
  #unreadable(level: number): number {
    this.reads = (this.reads + 1) | 0;
    return faultCode(FAULT_TABLE_ACCESS, level);
  }

  /** Steps 5 to 8 on the leaf in `word`. Returns lg2 of the page, a fault code, or 0: the entry changed meanwhile. */
  #leaf(hi: number, lo: number, access: number, level: number): number {
    const pteLo = word[0];
    const pteHi = word[1];
    let ppnHi = ((pteHi & PPN_HI) << 2) | (pteLo >>> 30);
    let ppnLo = (pteLo & ~0x3ff) << 2;
    const shift = 12 + level * this.#indexBits;
    let lg2 = shift;
    // Step 6: a large page is aligned to its size.
    if (level !== 0) {
      if (shift < 32 ? (ppnLo & ((1 << shift) - 1)) !== 0 : ppnLo !== 0 || (ppnHi & ((1 << (shift - 32)) - 1)) !== 0)
        return faultCode(FAULT_RESERVED, level);
    } else if (pteHi < 0) {
      // Svnapot: 64 KiB is the one size, coded as 1000 in the low bits of PPN.
      if ((ppnLo & 0xf000) !== 0x8000) return faultCode(FAULT_RESERVED, level);
      ppnLo &= ~0xffff;
      lg2 = 16;
    }
    // Step 5, after the checks of the entry itself, as both end in the same fault.
    let permission = this.#granted(pteLo, access);
    const dirty = (access & (WRITING | MARK_DIRTY)) !== 0 && (permission & WRITING) !== 0 ? PTE_D : 0;
    // Where nobody sets D, a clean page is as good as read-only.
    if (!this.#update && (pteLo & PTE_D) === 0 && permission > 0) permission &= ~WRITING;
    if (permission < 0 || ((access & PROBE) === 0 && (access & RWX & ~permission) !== 0)) return faultCode(FAULT_PERMISSION, level);
    // Step 7: A, and D for a write that the page permits.
    const needed = (PTE_A | dirty) & ~pteLo;
    if (needed !== 0) {
      if (!this.#update) return faultCode(FAULT_ACCESS_FLAG, level);
      this.reads = (this.reads + 1) | 0;
      const done = this.#replace(pteHi, pteLo, pteLo | needed);
      if (done < 0) return faultCode(FAULT_TABLE_ACCESS, level);
      if (done === 0) return 0;
    }
    // Step 8.
    if (lg2 < 32) {
      const offset = (1 << lg2) - 1;
      ppnLo = (ppnLo & ~offset) | (lo & offset);
    } else {
      const offset = (1 << (lg2 - 32)) - 1;
      ppnHi = (ppnHi & ~offset) | (hi & offset);
      ppnLo = lo;
    }
    const out = this.out;
    out[OUT_LO] = ppnLo;
    out[OUT_HI] = ppnHi;
    out[OUT_PERMISSION] = permission;
    out[OUT_TYPE] = (pteHi & PBMT_HI) >>> PBMT_SHIFT;
    out[OUT_LEAF] = (pteLo & 0xff) | this.#global;
    return lg2;
  }

  /** Step 5: R, W and X, as U lets the access's privilege have them; -1: a probe of a page that it must not touch. */
  #granted(pteLo: number, access: number): number {
    const permission = (pteLo >>> 1) & RWX;
    const user = (pteLo & PTE_U) !== 0;
    if (this.#secondStage || (access & AS_SUPERVISOR) === 0) return user ? permission : (access & PROBE) !== 0 ? -1 : 0;
    if (!user) return permission;
    if ((access & PROBE) !== 0 && (!this.#sum || (access & EXECUTE) !== 0)) return -1;
    return this.#sum ? permission & READ_WRITE : 0;
  }

  protected override load(hi: number, lo: number): number {
    const memory = this.#memory;
    if (this.#narrow) return this.#bigEndian ? memory.load32BE(hi, lo) : memory.load32(hi, lo);
    return this.#bigEndian ? memory.load64BE(hi, lo) : memory.load64(hi, lo);
  }

  protected override store(hi: number, lo: number, valueHi: number, valueLo: number): number {
    const memory = this.#memory;
    if (this.#narrow) return this.#bigEndian ? memory.store32BE(hi, lo, valueLo) : memory.store32(hi, lo, valueLo);
    return this.#bigEndian ? memory.store64BE(hi, lo, valueHi, valueLo) : memory.store64(hi, lo, valueHi, valueLo);
  }

  /** Steps 3 to 7 without an access: what an unprivileged one would be granted. */
  protected decode(level: number, hi: number, lo: number, into: Entry): number {
    if ((lo & PTE_V) === 0) return ABSENT;
    if ((lo & (PTE_R | PTE_W)) === PTE_W || (hi & this.#reserved) !== 0 || (hi & PBMT_HI) === PBMT_HI) return MALFORMED;
    const address = (hi & PPN_HI) * 2 ** 34 + (lo >>> 10) * 4096;
    const lg2 = hi < 0 ? 16 : 12 + level * this.#indexBits;
    if ((lo & (PTE_R | PTE_X)) === 0) {
      if (level === 0 || (lo & (PTE_D | PTE_A | PTE_U)) !== 0 || (hi & (PBMT_HI | N_HI)) !== 0) return MALFORMED;
      into.address = address;
      into.next = level - 1;
      into.permission = -1;
      return TABLE;
    }
    if (hi < 0 && (level !== 0 || (lo & (0xf << 10)) !== 8 << 10)) return MALFORMED;
    const base = hi < 0 ? address - 0x8000 : address;
    if (base % 2 ** lg2 !== 0) return MALFORMED;
    into.address = base;
    into.lg2 = lg2;
    into.permission = this.#grantedToUser(lo);
    return LEAF;
  }

  /** What an unprivileged access is granted now. */
  #grantedToUser(lo: number): number {
    if ((lo & PTE_U) === 0) return 0;
    const permission = (lo >>> 1) & (READ | WRITE | EXECUTE);
    if (this.#update) return permission;
    return (lo & PTE_A) === 0 ? 0 : (lo & PTE_D) === 0 ? permission & READ_EXECUTE : permission;
  }

  protected encodeTable(_level: number, address: number): void {
    this.#encode(address, PTE_V);
  }

  /** A user's page, accessed and dirty: nobody reads these bits in tables of ours. Every entry of a NAPOT mapping has the same PPN. */
  protected encodeLeaf(level: number, lg2: number, address: number, permission: number): void {
    const napot = !this.#narrow && level === 0 && lg2 === 16;
    this.#encode(napot ? address - (address % 0x1_0000) + 0x8000 : address, (permission << 1) | PTE_V | PTE_U | PTE_A | PTE_D);
    if (napot) this.made[1] |= N_HI;
  }

  #encode(address: number, bits: number): void {
    const ppn = address / 4096;
    this.made[0] = ((ppn % 0x40_0000) << 10) | bits;
    this.made[1] = Math.floor(ppn / 0x40_0000);
  }

  /** Replaces the entry's low half if the entry is still the same: 1, 0 when it is not, negative when memory refuses. */
  #replace(pteHi: number, pteLo: number, newLo: number): number {
    const memory = this.#memory;
    const hi = this.#entryHi;
    const lo = this.#entryLo;
    if (this.#narrow) return this.#replaceHalf(pteLo, newLo);
    if (this.#bigEndian) return memory.compareExchange64(hi, lo, swap32(pteLo), swap32(pteHi), swap32(newLo), swap32(pteHi));
    return memory.compareExchange64(hi, lo, pteHi, pteLo, pteHi, newLo);
  }

  /** A four-byte entry is one half of an aligned doubleword, whose other half must not change either. */
  #replaceHalf(pte: number, newPte: number): number {
    const memory = this.#memory;
    const hi = this.#entryHi;
    const base = this.#entryLo & ~7;
    const old = this.#bigEndian ? swap32(pte) : pte;
    const wanted = this.#bigEndian ? swap32(newPte) : newPte;
    const upper = (this.#entryLo & 4) !== 0;
    const loaded = memory.load64(hi, base);
    if (loaded < 0) return loaded;
    const low = word[0];
    const high = word[1];
    if ((upper ? high : low) !== old) return 0;
    return memory.compareExchange64(hi, base, high, low, upper ? wanted : high, upper ? low : wanted);
  }
}

function swap32(value: number): number {
  return (value >>> 24) | ((value >>> 8) & 0xff00) | ((value << 8) & 0xff0000) | (value << 24) | 0;
}

export type { RiscvMode, RiscvTableConfig } from './riscv-format.ts';
