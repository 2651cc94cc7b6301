import type { TableMemory } from '../../../pagetable/page-table.ts';
import { get, getWide, isSet } from '../../fields.ts';
import { sizeOf } from '../capabilities.ts';
import type { Registers } from '../control/registers.ts';
import type { Fault } from '../reporting/events.ts';
import { CD_BYTES, L1CD, L1CD_BYTES } from '../spec/cd.ts';
import { EVENT } from '../spec/events.ts';
import { S1FMT, STE } from '../spec/ste.ts';
import type { StreamEntry } from './stream-entry.ts';
import { load } from './structures.ts';

const BAD_SUBSTREAM: Fault = { number: EVENT.C_BAD_SUBSTREAMID };

/**
 * Reads the context descriptor of an index into 16 words (5.2, S1Fmt); null: it is there. `memory`: behind stage 2, if the entry has one, whose
 * refusal the caller knows of.
 */
export function readContext(registers: Registers, memory: TableMemory, entry: StreamEntry, index: number, into: Int32Array): Fault | null {
  const at = locate(registers, memory, entry, index);
  if (typeof at !== 'number') return at;
  return load(memory, at, into) ? null : { number: EVENT.F_CD_FETCH, address: at };
}

function locate(registers: Registers, memory: TableMemory, entry: StreamEntry, index: number): number | Fault {
  const { words, substreamBits, s2 } = entry;
  const pointer = getWide(words, STE.S1CONTEXT_PTR) * 64;
  const format = substreamBits === 0 ? S1FMT.linear : get(words, STE.S1FMT);
  if (format !== S1FMT.leaves4K && format !== S1FMT.leaves64K) return aligned(pointer, substreamBits + 6) + index * CD_BYTES;
  const split = format === S1FMT.leaves4K ? 6 : 10;
  const first = aligned(pointer, Math.max(6, substreamBits - split + 3)) + Math.floor(index / 2 ** split) * L1CD_BYTES;
  const descriptor = new Int32Array(2);
  if (!load(memory, first, descriptor)) return { number: EVENT.F_CD_FETCH, address: first };
  if (!isSet(descriptor, L1CD.V)) return BAD_SUBSTREAM;
  const second = getWide(descriptor, L1CD.L2PTR) * 4096;
  // 3.4.3, 3: without stage 2 the address is physical.
  if (!s2 && second >= 2 ** sizeOf(registers.features.OAS)) return BAD_SUBSTREAM;
  return second + (index % 2 ** split) * CD_BYTES;
}

function aligned(address: number, lg2: number): number {
  return address - (address % 2 ** lg2);
}
