import { READ, WRITE } from '../../../memory/access.ts';
import { hiOfPfn, loOfPfn } from '../../../memory/address.ts';
import type { TableMemory } from '../../../pagetable/page-table.ts';
import { SecondStageMemory } from '../../../pagetable/two-stage.ts';
import { X86Table } from '../../../pagetable/x86.ts';
import { getWide, isSet } from '../../fields.ts';
import { GCR3 } from '../spec/dte.ts';
import type { DeviceEntry } from './device-entry.ts';

/** Why a PASID has no tables: its GCR3 entry is not valid, or cannot be read. */
const NO_GCR3 = -1;
export const GCR3_UNREADABLE = -2;

const IMPLICIT = { read: READ, write: WRITE };

/**
 * The page of a PASID's guest table (2.2.6.3), or why there is none: GLX + 1 levels of 512 entries. The table's root is a system-physical address
 * unless `rootIsGuest` (CONTROL.GCR3_TRP_MODE); the levels below, and the tables, are guest-physical.
 */
export function guestRoot(entry: DeviceEntry, pasid: number, memory: TableMemory, rootIsGuest: boolean): number {
  const levels = entry.gcr3Levels;
  if (pasid >= 2 ** (9 * levels)) return NO_GCR3;
  const behind = guestMemory(entry, memory);
  let page = entry.gcr3Page;
  for (let level = levels - 1; level >= 0; level--) {
    const over = level === levels - 1 && !rootIsGuest ? memory : behind;
    if (over.load64(hiOfPfn(page), loOfPfn(page) | (((pasid >>> (9 * level)) & 511) << 3)) < 0) return GCR3_UNREADABLE;
    if (!isSet(over.word, GCR3.V)) return NO_GCR3;
    page = getWide(over.word, GCR3.ADDRESS);
  }
  return page;
}

/** Memory as guest tables are read through: behind the host table, if the entry has one. */
function guestMemory(entry: DeviceEntry, memory: TableMemory): TableMemory {
  return entry.host === null ? memory : new SecondStageMemory(memory, entry.hostTable(memory), IMPLICIT);
}

/** A PASID's guest table over memory that is behind the host table already. */
export function guestTable(entry: DeviceEntry, root: number, memory: TableMemory): X86Table {
  return new X86Table(memory, { levels: entry.guestLevels, root });
}
