import type { TableMemory } from '../../../pagetable/page-table.ts';

/** Reads a structure at a byte address, doubleword by doubleword, each in one piece (3.21.3). False: some of it is not there. */
export function load(memory: TableMemory, at: number, into: Int32Array): boolean {
  const { word } = memory;
  for (let i = 0; i < into.length; i += 2) {
    if (memory.load64(Math.floor(at / 2 ** 32) | 0, (at | 0) + 4 * i) < 0) return false;
    into[i] = word[0];
    into[i + 1] = word[1];
  }
  return true;
}
