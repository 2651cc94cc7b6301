import type { Features } from './capabilities.ts';
import type { Registers } from './control/registers.ts';
import type { Stalls } from './reporting/stalls.ts';
import { REGISTERS_END } from './spec/registers.ts';

/** What `save` gives: plain data that structuredClone and JSON both keep. */
export interface Smmuv3State {
  readonly target: 'smmuv3';
  /** Register words that are not 0: byte offset and value. */
  readonly registers: readonly (readonly [number, number])[];
  readonly stalls: ReturnType<Stalls['save']>;
  /** A device has not done what a CMD_ATC_INV asked, and no CMD_SYNC has said so yet. */
  readonly isInvalidationMissing: boolean;
}

export function saveRegisters({ words }: Registers): Smmuv3State['registers'] {
  return Array.from(words, (word, i): [number, number] => [4 * i, word]).filter(([, word]) => word !== 0);
}

/** @throws TypeError when the state is not one that an Smmuv3 with these features saved. */
export function checkedState(state: unknown, { STALL_MAX }: Features): Smmuv3State {
  const value = state as Smmuv3State;
  const isNatural = (number: unknown) => Number.isInteger(number) && (number as number) >= 0;
  const isWord = (row: unknown) =>
    Array.isArray(row) && row.length === 2 && row[0] >= 0 && row[0] < REGISTERS_END && row[0] % 4 === 0 && (row[1] | 0) === row[1];
  const isStall = (row: unknown) =>
    Array.isArray(row) && row.length === 3 && isNatural(row[0]) && isNatural(row[1]) && typeof row[2] === 'string';
  if (typeof state !== 'object' || state === null || value.target !== 'smmuv3') throw new TypeError('Smmuv3: not a saved state: target');
  if (!Array.isArray(value.registers) || !value.registers.every(isWord)) throw new TypeError('Smmuv3: not a saved state: registers');
  const { stalls } = value;
  if (typeof stalls !== 'object' || stalls === null || !Array.isArray(stalls.rows) || !stalls.rows.every(isStall))
    throw new TypeError('Smmuv3: not a saved state: stalls');
  const tags = new Set(stalls.rows.map(([tag]) => tag));
  const areTags = tags.size === stalls.rows.length && [...tags].every((tag) => tag < STALL_MAX);
  const isNext = isNatural(stalls.next) && stalls.next < Math.max(STALL_MAX, 1);
  if (!areTags || !isNext || typeof stalls.waits !== 'boolean') throw new TypeError('Smmuv3: not a saved state: stalls');
  if (typeof value.isInvalidationMissing !== 'boolean') throw new TypeError('Smmuv3: not a saved state: isInvalidationMissing');
  return value;
}
