import type { TableMemory } from '../../../pagetable/page-table.ts';

/** How often a read of 16 bytes starts again when they change meanwhile. */
const RETRIES = 16;

/** Reads structures of guest memory: 128 bits in one piece, larger ones in pieces of that size (chapter 9). */
export class Structures {
  readonly memory: TableMemory;

  constructor(memory: TableMemory) {
    this.memory = memory;
  }

  /** Fills `words` from a byte address on. False: not all of it is memory. */
  read(address: number, words: Int32Array): boolean {
    for (let at = 0; at < words.length; at += 4) {
      const left = words.length - at;
      if (left === 2 ? !this.#read64(address + 4 * at, words, at) : !this.#read128(address + 4 * at, words, at)) return false;
    }
    return true;
  }

  #read64(address: number, words: Int32Array, at: number): boolean {
    const { memory } = this;
    if (memory.load64(Math.floor(address / 0x1_0000_0000), address | 0) < 0) return false;
    words[at] = memory.word[0];
    words[at + 1] = memory.word[1];
    return true;
  }

  /** A guest that changes the entry all the time gets what it deserves: two halves that never stood together. */
  #read128(address: number, words: Int32Array, at: number): boolean {
    const { word } = this.memory;
    for (let i = 0; i < RETRIES; i++) {
      if (!this.#read64(address, words, at) || !this.#read64(address + 8, words, at + 2)) return false;
      if (this.memory.load64(Math.floor(address / 0x1_0000_0000), address | 0) < 0) return false;
      if (word[0] === words[at] && word[1] === words[at + 1]) break;
    }
    return true;
  }
}
