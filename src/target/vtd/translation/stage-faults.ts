import { READ_WRITE, WRITE } from '../../../memory/access.ts';
import { pfnOfHiLo } from '../../../memory/address.ts';
import {
  FAULT_INPUT_SIZE,
  FAULT_NOT_PRESENT,
  FAULT_PERMISSION,
  FAULT_RESERVED,
  faultKind,
  faultLevel,
  type PageTable,
} from '../../../pagetable/page-table.ts';
import { BY_FIRST_STAGE, BY_OUTPUT, BY_TABLE_WRITE } from '../../../pagetable/two-stage.ts';
import { Fault, type FaultReason } from '../spec/faults.ts';
import type { Stages } from './stages.ts';

/** Levels of a walk, and so the entries that looking at one page again reads. */
const LEVELS = 5;

/** The reason of a walk's fault (table 30). `code`: what the walk of these stages answered for the address. */
export function reasonOf(stages: Stages, code: number, hi: number, lo: number, access: number): FaultReason {
  const { firstTable, secondTable, nested, legacy } = stages;
  if (firstTable === null) {
    return legacy ? ofLegacy(secondTable!, code, hi, lo, access) : ofSecond(secondTable!, code, hi, lo, access, Fault['SGN.5']);
  }
  if (nested === null || nested.origin === BY_FIRST_STAGE) return ofFirst(firstTable, code, hi, lo);
  const { origin, gpaHi, gpaLo } = nested;
  if (origin === BY_OUTPUT) return ofSecond(secondTable!, code, gpaHi, gpaLo, access, Fault['SFS.5']);
  if (faultKind(code) !== FAULT_PERMISSION) return ofSecond(secondTable!, code, gpaHi, gpaLo, access, Fault['SFS.5']);
  if (grantedBy(secondTable!, gpaHi, gpaLo) === 0) return Fault['SSS.2'];
  if (origin === BY_TABLE_WRITE) return Fault['SFS.8'];
  return pfnOfHiLo(gpaHi, gpaLo) === stages.first!.root ? Fault['SFS.6'] : Fault['SFS.7'];
}

function ofLegacy(table: PageTable, code: number, hi: number, lo: number, access: number): FaultReason {
  switch (faultKind(code)) {
    case FAULT_INPUT_SIZE:
      return Fault['LGN.1'];
    case FAULT_NOT_PRESENT:
    case FAULT_PERMISSION:
      return lacksWrite(table, hi, lo, access) ? Fault['LGN.2'] : Fault['LGN.3'];
    case FAULT_RESERVED:
      return Fault['LSS.2'];
    default:
      return isTop(table, code) ? Fault['LCT.4'] : Fault['LSS.1'];
  }
}

function ofSecond(table: PageTable, code: number, hi: number, lo: number, access: number, tooWide: FaultReason): FaultReason {
  switch (faultKind(code)) {
    case FAULT_INPUT_SIZE:
      return tooWide;
    case FAULT_NOT_PRESENT:
      return Fault['SSS.2'];
    case FAULT_PERMISSION:
      if (grantedBy(table, hi, lo) === 0) return Fault['SSS.2'];
      return lacksWrite(table, hi, lo, access) ? Fault['SGN.6'] : Fault['SGN.7'];
    case FAULT_RESERVED:
      return Fault['SSS.3'];
    default:
      return isTop(table, code) ? Fault['SSS.4'] : Fault['SSS.1'];
  }
}

function ofFirst(table: PageTable, code: number, hi: number, lo: number): FaultReason {
  switch (faultKind(code)) {
    case FAULT_INPUT_SIZE:
      return Fault['SGN.1'];
    case FAULT_NOT_PRESENT:
      return Fault['SFS.2'];
    case FAULT_PERMISSION:
      // A page that a user may not even read is a supervisor's.
      return grantedBy(table, hi, lo) === 0 ? Fault['SGN.2'] : Fault['SGN.6'];
    case FAULT_RESERVED:
      return Fault['SFS.3'];
    default:
      return isTop(table, code) ? Fault['SFS.4'] : Fault['SFS.1'];
  }
}

/** Whether the table that could not be read is the first one. */
function isTop(table: PageTable, code: number): boolean {
  return faultLevel(code) === table.description.levels.length - 1;
}

/** Of a request that lacks both permissions the lack of write permission is told (LGN.2 and SGN.6 stand first). */
function lacksWrite(table: PageTable, hi: number, lo: number, access: number): boolean {
  return (access & WRITE) !== 0 && (grantedBy(table, hi, lo) & WRITE) === 0;
}

/** What a page's tables grant to a user. Sets no accessed bits. */
function grantedBy(table: PageTable, hi: number, lo: number): number {
  const pfn = pfnOfHiLo(hi, lo);
  let granted = 0;
  table.enumerate(
    pfn,
    pfn,
    (_iova, _output, _pages, permission) => {
      granted = permission & READ_WRITE;
      return true;
    },
    LEVELS,
  );
  return granted;
}
