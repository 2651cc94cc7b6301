import type { Registers } from './control/registers.ts';
import { REGISTER_BYTES } from './spec/registers.ts';

/** What `save` gives: plain data that structuredClone and JSON both keep. */
export interface AmdIommuState {
  readonly target: 'amd';
  /** Register words that are not 0: byte offset and value. */
  readonly registers: readonly (readonly [number, number])[];
}

export function saveRegisters({ words }: Registers): AmdIommuState['registers'] {
  return Array.from(words, (word, i): [number, number] => [4 * i, word]).filter(([, word]) => word !== 0);
}

/** @throws TypeError when the state is not one that an AmdIommu saved. */
export function checkedState(state: unknown): AmdIommuState {
  const value = state as AmdIommuState;
  const isWord = (row: unknown) =>
    Array.isArray(row) && row.length === 2 && row[0] >= 0 && row[0] < REGISTER_BYTES && row[0] % 4 === 0 && (row[1] | 0) === row[1];
  if (typeof state !== 'object' || state === null || value.target !== 'amd') throw new TypeError('AmdIommu: not a saved state: target');
  if (!Array.isArray(value.registers) || !value.registers.every(isWord)) throw new TypeError('AmdIommu: not a saved state: registers');
  return value;
}
