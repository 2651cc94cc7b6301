import type { TableMemory } from '../../../pagetable/page-table.ts';

/** Memory whose 64-bit entries are read and changed as big-endian ones (CD.ENDI, STE.S2ENDI). */
export class BigEndianMemory implements TableMemory {
  readonly #memory: TableMemory;

  constructor(memory: TableMemory) {
    this.#memory = memory;
  }

  get word(): Int32Array {
    return this.#memory.word;
  }

  load64(hi: number, lo: number): number {
    return this.#memory.load64BE(hi, lo);
  }
  load64BE(hi: number, lo: number): number {
    return this.#memory.load64(hi, lo);
  }
  load32(hi: number, lo: number): number {
    return this.#memory.load32BE(hi, lo);
  }
  load32BE(hi: number, lo: number): number {
    return this.#memory.load32(hi, lo);
  }
  store64(hi: number, lo: number, valueHi: number, valueLo: number): number {
    return this.#memory.store64BE(hi, lo, valueHi, valueLo);
  }
  store64BE(hi: number, lo: number, valueHi: number, valueLo: number): number {
    return this.#memory.store64(hi, lo, valueHi, valueLo);
  }
  store32(hi: number, lo: number, value: number): number {
    return this.#memory.store32BE(hi, lo, value);
  }
  store32BE(hi: number, lo: number, value: number): number {
    return this.#memory.store32(hi, lo, value);
  }
  compareExchange64(hi: number, lo: number, oldHi: number, oldLo: number, newHi: number, newLo: number): number {
    return this.#memory.compareExchange64(hi, lo, swapped(oldLo), swapped(oldHi), swapped(newLo), swapped(newHi));
  }
}

function swapped(word: number): number {
  return (word << 24) | ((word & 0xff00) << 8) | ((word >>> 8) & 0xff00) | (word >>> 24);
}
