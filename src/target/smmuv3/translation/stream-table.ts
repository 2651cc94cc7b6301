import type { GuestMemory } from '../../../memory/guest-memory.ts';
import { get, getWide } from '../../fields.ts';
import type { Registers } from '../control/registers.ts';
import type { Fault } from '../reporting/events.ts';
import { EVENT } from '../spec/events.ts';
import { REG, STRTAB_BASE, STRTAB_BASE_CFG } from '../spec/registers.ts';
import { L1STD, L1STD_BYTES, STE_BYTES } from '../spec/ste.ts';
import { load } from './structures.ts';

const BAD_STREAM: Fault = { number: EVENT.C_BAD_STREAMID };
const SPLITS: readonly number[] = [6, 8, 10];
const TWO_LEVELS = 1;

/** Reads a stream's entry into 16 words (3.3.1); null: it is there. Nothing is checked but where it lies. */
export function readStreamEntry(registers: Registers, memory: GuestMemory, stream: number, into: Int32Array): Fault | null {
  const at = locate(registers, memory, stream);
  if (typeof at !== 'number') return at;
  return load(memory, at, into) ? null : { number: EVENT.F_STE_FETCH, address: at };
}

function locate(registers: Registers, memory: GuestMemory, stream: number): number | Fault {
  const config = registers.view(REG.STRTAB_BASE_CFG);
  const size = get(config, STRTAB_BASE_CFG.LOG2SIZE);
  if (stream >= 2 ** Math.min(size, registers.features.SIDSIZE)) return BAD_STREAM;
  const base = getWide(registers.view(REG.STRTAB_BASE), STRTAB_BASE.ADDR) * 64;
  // The base is aligned to the table's size (6.3.24).
  if (get(config, STRTAB_BASE_CFG.FMT) !== TWO_LEVELS) return aligned(base, size + 6) + stream * STE_BYTES;
  const asked = get(config, STRTAB_BASE_CFG.SPLIT);
  const split = SPLITS.includes(asked) ? asked : 6;
  const first = aligned(base, Math.max(6, size - split + 3)) + Math.floor(stream / 2 ** split) * L1STD_BYTES;
  const descriptor = new Int32Array(2);
  if (!load(memory, first, descriptor)) return { number: EVENT.F_STE_FETCH, address: first };
  const span = get(descriptor, L1STD.SPAN);
  const index = stream % 2 ** split;
  // 5.1: 0 is no table, more than the split reserved; 7.3.3, 2 a to d.
  if (span === 0 || span > split + 1 || index >= 2 ** (span - 1)) return BAD_STREAM;
  return aligned(getWide(descriptor, L1STD.L2PTR) * 64, Math.max(6, span + 5)) + index * STE_BYTES;
}

function aligned(address: number, lg2: number): number {
  return address - (address % 2 ** lg2);
}
