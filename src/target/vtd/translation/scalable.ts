import { get, getWide, isSet, put, reservedClear } from '../../fields.ts';
import { NO_PASID, type TableReader } from '../../target.ts';
import { PASID_BITS } from '../capabilities.ts';
import type { Registers } from '../control/registers.ts';
import type { VtdChoices } from '../options.ts';
import {
  FSPM,
  PASID_DIRECTORY,
  PASID_DIRECTORY_RESERVED,
  PASID_ENTRY,
  PASID_ENTRY_RESERVED,
  PGTT,
  SCALABLE_CONTEXT,
  SCALABLE_CONTEXT_RESERVED,
  SCALABLE_ROOT_HALF,
  SCALABLE_ROOT_HALF_RESERVED,
} from '../spec/entries.ts';
import { Fault } from '../spec/faults.ts';
import type { FirstStageTables, Programmed, SecondStage } from './stages.ts';
import type { Structures } from './structures.ts';
import { aboveWidth } from './wide-addresses.ts';

/** Entries that one look for the PASIDs of a device reads at most, of directory and tables, and how many it finds. */
const LISTED_ENTRIES = 1 << 12;
const LISTED = 1 << 10;
/** Entries of a PASID table (9.6). */
const TABLE_ENTRIES = 64;
/** PASIDs behind one page of a directory (9.5). */
const DIRECTORY_PAGE = 512 * TABLE_ENTRIES;

/** Root, context and PASID tables of scalable mode (3.4.4, 9.2, 9.4 to 9.6). */
export class ScalableTables {
  /** Why `locate` found nothing, and whether an entry on the way says FPD. */
  reason = 0;
  suppressed = false;
  readonly #registers: Registers;
  readonly #structures: Structures;
  readonly #choices: VtdChoices;
  readonly #root = new Int32Array(2);
  readonly #context = new Int32Array(8);
  readonly #directory = new Int32Array(2);
  readonly #entry = new Int32Array(16);
  readonly #rootReserved: Int32Array;
  readonly #contextReserved: Int32Array;
  readonly #directoryReserved: Int32Array;
  readonly #entryReserved: Int32Array;

  constructor(registers: Registers, structures: Structures, choices: VtdChoices) {
    this.#registers = registers;
    this.#structures = structures;
    this.#choices = choices;
    const width = choices.hostAddressWidth;
    this.#rootReserved = aboveWidth(SCALABLE_ROOT_HALF_RESERVED, width, 0);
    this.#contextReserved = aboveWidth(SCALABLE_CONTEXT_RESERVED, width, 0);
    if (!choices.deviceTlb) put(this.#contextReserved, SCALABLE_CONTEXT.DTE, 1);
    if (!choices.pageRequests) put(this.#contextReserved, SCALABLE_CONTEXT.PRE, 1);
    this.#directoryReserved = aboveWidth(PASID_DIRECTORY_RESERVED, width, 0);
    this.#entryReserved = aboveWidth(PASID_ENTRY_RESERVED, width, 0, 2);
  }

  /** `pasid`: NO_PASID, or what the request carries, in which every number is possible. */
  locate(device: number, pasid: number): Programmed | null {
    const context = this.#context;
    this.suppressed = false;
    if (!this.#locateContext(device, this.#structures)) return null;
    const ridPasid = get(context, SCALABLE_CONTEXT.RID_PASID);
    if (pasid !== NO_PASID) {
      if (pasid < 0 || pasid >= 2 ** PASID_BITS) return this.#refuse(Fault['SGN.10']);
      if (!isSet(context, SCALABLE_CONTEXT.PASIDE)) return this.#refuse(Fault['SCT.6']);
      if (pasid >= this.#pasidLimit()) return this.#refuse(Fault['SCT.7']);
      if (pasid === ridPasid) return this.#refuse(Fault['SCT.9']);
    }
    return this.#locatePasid(pasid === NO_PASID ? ridPasid : pasid);
  }

  /**
   * PASIDs of the device whose entries are present, but RID_PASID, ascending, as far as LISTED_ENTRIES and LISTED go. Read through `structures`; nothing
   * is a fault. `tables` hears of what that is read from, RID_PASID's too, before it is read, with PASIDs for pages.
   */
  list(device: number, structures: Structures, tables: TableReader | null = null): readonly number[] {
    const found: number[] = [];
    const context = this.#context;
    const directory = this.#directory;
    if (!this.#locateContext(device, structures, tables)) return found;
    const withPasids = isSet(context, SCALABLE_CONTEXT.PASIDE);
    const ridPasid = get(context, SCALABLE_CONTEXT.RID_PASID);
    // Without PASIDs there is RID_PASID's table alone.
    const from = withPasids ? 0 : ridPasid - (ridPasid % TABLE_ENTRIES);
    const end = withPasids ? this.#pasidLimit() : from + TABLE_ENTRIES;
    const directoryAt = getWide(context, SCALABLE_CONTEXT.PASIDDIRPTR) * 4096;
    const head = new Int32Array(2);
    let left = LISTED_ENTRIES;
    for (let first = from; first < end && left-- > 0; first += TABLE_ENTRIES) {
      const at = directoryAt + (first / TABLE_ENTRIES) * 8;
      if (first === from || first % DIRECTORY_PAGE === 0) {
        const next = Math.min(end, first - (first % DIRECTORY_PAGE) + DIRECTORY_PAGE);
        tables?.(at, ((next - first) / TABLE_ENTRIES) * 8, (next - first) / TABLE_ENTRIES, first, next - 1);
      }
      if (!structures.read(at, directory)) break;
      if (!isSet(directory, PASID_DIRECTORY.P)) continue;
      const tableAt = getWide(directory, PASID_DIRECTORY.SMPTBLPTR) * 4096;
      tables?.(tableAt, 4096, TABLE_ENTRIES, first, first + TABLE_ENTRIES - 1);
      for (let i = 0; i < TABLE_ENTRIES && left-- > 0 && found.length < LISTED; i++) {
        if (!structures.read(tableAt + i * 64, head)) break;
        if (withPasids && isSet(head, PASID_ENTRY.P) && first + i !== ridPasid) found.push(first + i);
      }
    }
    return found;
  }

  #pasidLimit(): number {
    return 2 ** (get(this.#context, SCALABLE_CONTEXT.PDTS) + 7 + 6);
  }

  #locateContext(device: number, structures: Structures, tables: TableReader | null = null): boolean {
    const root = this.#root;
    const context = this.#context;
    const table = this.#registers.root;
    const rootTable = (table[1] >>> 0) * 0x1_0000_0000 + ((table[0] & ~0xfff) >>> 0);
    const rootAt = rootTable + (device >> 7) * 8;
    tables?.(rootAt, 8, 1, 0, 2 ** PASID_BITS - 1);
    if (!structures.read(rootAt, root)) return this.#fails(Fault['SRT.1']);
    if (!isSet(root, SCALABLE_ROOT_HALF.P)) return this.#fails(Fault['SRT.2']);
    if (!reservedClear(root, this.#rootReserved)) return this.#fails(Fault['SRT.3']);
    const address = getWide(root, SCALABLE_ROOT_HALF.CTP) * 4096 + (device & 0x7f) * 32;
    tables?.(address, 32, 1, 0, 2 ** PASID_BITS - 1);
    if (!structures.read(address, context)) return this.#fails(Fault['SCT.1']);
    this.suppressed = isSet(context, SCALABLE_CONTEXT.FPD);
    if (!isSet(context, SCALABLE_CONTEXT.P)) return this.#fails(Fault['SCT.2']);
    if (!reservedClear(context, this.#contextReserved)) return this.#fails(Fault['SCT.3']);
    // SCT.4.1
    if (isSet(context, SCALABLE_CONTEXT.PRE) && !isSet(context, SCALABLE_CONTEXT.DTE)) return this.#fails(Fault['SCT.4']);
    // SCT.4.2
    if (get(context, SCALABLE_CONTEXT.RID_PASID) >= this.#pasidLimit()) return this.#fails(Fault['SCT.4']);
    return true;
  }

  #locatePasid(pasid: number): Programmed | null {
    const directory = this.#directory;
    const entry = this.#entry;
    const context = this.#context;
    const at = getWide(context, SCALABLE_CONTEXT.PASIDDIRPTR) * 4096 + (pasid >>> 6) * 8;
    if (!this.#structures.read(at, directory)) return this.#refuse(Fault['SPD.1']);
    this.suppressed ||= isSet(directory, PASID_DIRECTORY.FPD);
    if (!isSet(directory, PASID_DIRECTORY.P)) return this.#refuse(Fault['SPD.2']);
    if (!reservedClear(directory, this.#directoryReserved)) return this.#refuse(Fault['SPD.3']);
    if (!this.#structures.read(getWide(directory, PASID_DIRECTORY.SMPTBLPTR) * 4096 + (pasid & 63) * 64, entry))
      return this.#refuse(Fault['SPT.1']);
    this.suppressed ||= isSet(entry, PASID_ENTRY.FPD);
    if (!isSet(entry, PASID_ENTRY.P)) return this.#refuse(Fault['SPT.2']);
    if (!reservedClear(entry, this.#entryReserved)) return this.#refuse(Fault['SPT.3']);
    const type = get(entry, PASID_ENTRY.PGTT);
    const second = type === PGTT.secondStage || type === PGTT.nested ? this.#secondStage() : null;
    // SPT.4.1
    if (second === undefined) return this.#refuse(Fault['SPT.4']);
    // SPT.4.2
    if (type < PGTT.firstStage || type > PGTT.passThrough) return this.#refuse(Fault['SPT.4']);
    const first = type === PGTT.firstStage || type === PGTT.nested ? this.#firstStage() : null;
    // SPT.4.3
    if (first === undefined) return this.#refuse(Fault['SPT.4']);
    // SPT.4.4
    if (first !== null && second !== null && first.root >= 2 ** (9 * second.levels)) return this.#refuse(Fault['SPT.4']);
    return {
      legacy: false,
      domain: get(entry, PASID_ENTRY.DID),
      pasid,
      first,
      second,
      suppressed: this.suppressed,
      supervisor: isSet(entry, PASID_ENTRY.SRE),
      deviceTlb: isSet(context, SCALABLE_CONTEXT.DTE),
      pageRequests: isSet(context, SCALABLE_CONTEXT.PRE),
    };
  }

  #secondStage(): SecondStage | undefined {
    const entry = this.#entry;
    const levels = this.#choices.secondStageLevels.find((count) => count === get(entry, PASID_ENTRY.AW) + 2);
    if (levels === undefined) return undefined;
    return { levels, root: getWide(entry, PASID_ENTRY.SSPTPTR), accessedDirty: isSet(entry, PASID_ENTRY.SSADE) };
  }

  #firstStage(): FirstStageTables | undefined {
    const entry = this.#entry;
    const mode = get(entry, PASID_ENTRY.FSPM);
    if (mode !== FSPM.fourLevels && !(mode === FSPM.fiveLevels && this.#choices.firstStage5Level)) return undefined;
    return {
      levels: mode === FSPM.fiveLevels ? 5 : 4,
      root: getWide(entry, PASID_ENTRY.FSPTPTR),
      writeProtect: isSet(entry, PASID_ENTRY.WPE),
      extendedAccessed: isSet(entry, PASID_ENTRY.EAFE),
    };
  }

  #refuse(reason: number): null {
    this.reason = reason;
    return null;
  }

  #fails(reason: number): false {
    this.reason = reason;
    return false;
  }
}
