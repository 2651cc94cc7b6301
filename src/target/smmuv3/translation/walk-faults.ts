import { FAULT_ACCESS_FLAG, FAULT_OUTPUT_SIZE, FAULT_PERMISSION, FAULT_TABLE_ACCESS, faultKind } from '../../../pagetable/page-table.ts';
import { BY_TABLE_READ, type SecondStageMemory } from '../../../pagetable/two-stage.ts';
import type { Fault } from '../reporting/events.ts';
import { CLASS, EVENT } from '../spec/events.ts';

/** The event of a walk's fault code, 7.3.12 to 7.3.16. */
function numberOf(code: number): number {
  switch (faultKind(code)) {
    case FAULT_OUTPUT_SIZE:
      return EVENT.F_ADDR_SIZE;
    case FAULT_ACCESS_FLAG:
      return EVENT.F_ACCESS;
    case FAULT_PERMISSION:
      return EVENT.F_PERMISSION;
    case FAULT_TABLE_ACCESS:
      return EVENT.F_WALK_EABT;
    default:
      return EVENT.F_TRANSLATION;
  }
}

/** A fault of stage 1's own tables. */
export function firstStageFault(code: number): Fault {
  const number = numberOf(code);
  return { number, on: number === EVENT.F_WALK_EABT ? CLASS.TT : CLASS.IN };
}

/** A fault of stage 2, asked for what stage 1 gave, or for the request's own address. */
export function outputFault(code: number, hi: number, lo: number): Fault {
  return { number: numberOf(code), s2: true, on: CLASS.IN, address: addressOf(hi, lo) };
}

/** A fault of stage 2, asked for a table of stage 1 or a context descriptor: `on` says which. */
export function implicitFault(behind: SecondStageMemory, on: number): Fault {
  const { code, origin, gpaHi, gpaLo } = behind;
  return { number: numberOf(code), s2: true, on, tableRead: origin === BY_TABLE_READ, address: addressOf(gpaHi, gpaLo) };
}

function addressOf(hi: number, lo: number): number {
  return (hi >>> 0) * 2 ** 32 + (lo >>> 0);
}
