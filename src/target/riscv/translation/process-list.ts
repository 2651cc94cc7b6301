import { hiOfPfn, loOfPfn, PAGE_BYTES } from '../../../memory/address.ts';
import type { TableMemory } from '../../../pagetable/page-table.ts';
import { getWide, isSet } from '../../fields.ts';
import type { TableReader } from '../../target.ts';
import { DDTE } from '../spec/device-context.ts';
import { PC } from '../spec/process-context.ts';
import type { DeviceContext, DeviceDirectory } from './device-directory.ts';

/** Entries that one look through a process directory reads at most: all of a PD8, and 14 leaves of a PD17. */
const ENTRIES = 1 << 12;
/** Processes that it finds at most: as many as an observer is told of. */
const FOUND = 1 << 10;

/** Index bits of a process_id by level, lowest first: PDI[0], PDI[1], PDI[2] ("Process-directory-table"). */
const INDEX_BITS = [8, 9, 3] as const;

/**
 * Processes of a device whose contexts are valid, ascending, as far as ENTRIES and FOUND go: there is no command that names those that were valid before
 * the device-context was. Nothing that the guest can see changes. `tables` hears of the tables before they are read, with processes for pages.
 */
export function listProcesses(
  device: DeviceContext,
  directory: DeviceDirectory,
  memory: TableMemory,
  tables: TableReader | null = null,
): readonly number[] {
  const found: number[] = [];
  if (!device.pdtv) return found;
  const words = new Int32Array(2);
  let left = ENTRIES;
  const read = (page: number, offset: number): boolean => {
    left--;
    const [hi, lo] = [hiOfPfn(page), loOfPfn(page) | offset];
    const status = device.sbe ? memory.load64BE(hi, lo) : memory.load64(hi, lo);
    words.set(memory.word.subarray(0, 2));
    return status >= 0;
  };
  const list = (guestPage: number, level: number, first: number): void => {
    const page = physical(device, directory, memory, guestPage);
    if (page < 0) return;
    const lg2 = INDEX_BITS.slice(0, level).reduce((bits, more) => bits + more, 0);
    const [entries, entryLg2] = [2 ** INDEX_BITS[level], level === 0 ? 4 : 3];
    tables?.(page * PAGE_BYTES, entries << entryLg2, entries, first, first + entries * 2 ** lg2 - 1);
    for (let i = 0; i < entries && left > 0 && found.length < FOUND; i++) {
      const process = first + i * 2 ** lg2;
      if (!read(page, i << entryLg2)) return;
      if (level === 0 && isSet(words, PC.V)) found.push(process);
      else if (level > 0 && isSet(words, DDTE.V)) list(getWide(words, DDTE.PPN), level - 1, process);
    }
  };
  if (device.fscMode > 0) list(device.fscRoot, device.fscMode - 1, 0);
  return found;
}

/** Where the second stage has a guest page, without marking anything as accessed; -1: nowhere. */
function physical(device: DeviceContext, directory: DeviceDirectory, memory: TableMemory, guestPage: number): number {
  if (device.secondStage === null) return guestPage;
  let page = -1;
  const stage = directory.secondTable(device.secondStage, device, memory);
  stage.enumerate(
    guestPage,
    guestPage,
    (_guest, physicalPage) => {
      page = physicalPage;
      return false;
    },
    64,
  );
  return page;
}
