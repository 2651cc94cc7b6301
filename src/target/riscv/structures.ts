import { joinHiLo } from '../../memory/address.ts';
import { LOADED } from '../../memory/loaded.ts';
import type { Registers } from './control/registers.ts';
import type { IommuMemory, RiscvIommuSurroundings } from './surroundings.ts';

/** LOADED, here because the compiler folds a module's own constants only. */
const word = LOADED;

/** The longest structure: an extended-format device context of eight doublewords. */
const DOUBLEWORDS = 8;

/**
 * In-memory structures are rows of doublewords, each little- or big-endian ("Endianness of in-memory data structures").
 * Reads and writes go through `words`: [lo, hi] of each doubleword.
 */
export class Structures {
  readonly words = new Int32Array(2 * DOUBLEWORDS);
  readonly #memory: IommuMemory;
  readonly #registers: Registers;
  readonly #surroundings: RiscvIommuSurroundings;

  constructor(surroundings: RiscvIommuSurroundings, registers: Registers) {
    this.#surroundings = surroundings;
    this.#memory = surroundings.memory;
    this.#registers = registers;
  }

  /** Whether the access that failed last met poisoned data rather than no memory. */
  get poisoned(): boolean {
    return this.#memory.poisoned === true;
  }

  /** Reads `count` doublewords from an address that is a multiple of 8 into `words`. False: not all of it is memory. */
  read(hi: number, lo: number, count: number, bigEndian: boolean): boolean {
    const memory = this.#memory;
    for (let i = 0; i < count; i++) {
      // A structure is aligned to its size, so that `lo` cannot carry into `hi`.
      const status = bigEndian ? memory.load64BE(hi, lo + 8 * i) : memory.load64(hi, lo + 8 * i);
      if (status < 0) return false;
      this.words[2 * i] = word[0];
      this.words[2 * i + 1] = word[1];
    }
    return true;
  }

  /** Reads two doublewords, as `read` does: commands come often. */
  readPair(hi: number, lo: number, bigEndian: boolean): boolean {
    if (bigEndian) return this.read(hi, lo, 2, true);
    const memory = this.#memory;
    const words = this.words;
    if (memory.load64(hi, lo) < 0) return false;
    words[0] = word[0];
    words[1] = word[1];
    if (memory.load64(hi, lo + 8) < 0) return false;
    words[2] = word[0];
    words[3] = word[1];
    return true;
  }

  /** Writes `count` doublewords of `words`. */
  write(hi: number, lo: number, count: number, bigEndian: boolean): boolean {
    const memory = this.#memory;
    for (let i = 0; i < count; i++) {
      const low = this.words[2 * i];
      const high = this.words[2 * i + 1];
      const status = bigEndian ? memory.store64BE(hi, lo + 8 * i, high, low) : memory.store64(hi, lo + 8 * i, high, low);
      if (status < 0) return false;
    }
    return true;
  }

  /** Sets bits of a doubleword atomically, in the order that fctl.BE says. False: no memory, or it never stood still. */
  setBits(hi: number, lo: number, highBits: number, lowBits: number, retries: number): boolean {
    const memory = this.#memory;
    const bigEndian = this.#registers.bigEndian;
    const high = bigEndian ? swap32(lowBits) : highBits;
    const low = bigEndian ? swap32(highBits) : lowBits;
    for (let i = 0; i < retries; i++) {
      if (memory.load64(hi, lo) < 0) return false;
      const [oldLow, oldHigh] = word;
      const done = memory.compareExchange64(hi, lo, oldHigh, oldLow, oldHigh | high, oldLow | low);
      if (done !== 0) return done > 0;
    }
    return false;
  }

  /** A 4-byte store in the order that fctl.BE says, into memory or, where there is none, a device of the machine. */
  storeWord(hi: number, lo: number, value: number): boolean {
    const memory = this.#memory;
    const bigEndian = this.#registers.bigEndian;
    const status = bigEndian ? memory.store32BE(hi, lo, value) : memory.store32(hi, lo, value);
    if (status >= 0) return true;
    if (this.poisoned) return false;
    const stored = bigEndian ? swap32(value) : value;
    return this.#surroundings.storeDevice?.(joinHiLo(hi, lo), stored >>> 0) ?? false;
  }
}

function swap32(value: number): number {
  return (value >>> 24) | ((value >>> 8) & 0xff00) | ((value << 8) & 0xff0000) | (value << 24) | 0;
}
