import { READ } from '../../../memory/access.ts';
import { hiOfPfn, loOfPfn } from '../../../memory/address.ts';
import { FAULT_TABLE_ACCESS, faultKind, OUT_HI, OUT_LO } from '../../../pagetable/page-table.ts';
import { get, getWide, isSet, reservedClear } from '../../fields.ts';
import { Event, type Hpm } from '../control/hpm.ts';
import type { Registers } from '../control/registers.ts';
import { Cause } from '../spec/causes.ts';
import { DDTE, DDTE_RESERVED } from '../spec/device-context.ts';
import { PC } from '../spec/process-context.ts';
import type { Structures } from '../structures.ts';
import { brokenProcessRule } from './configuration-checks.ts';
import type { DeviceContext } from './device-directory.ts';

/** "Process-context", decoded and checked. */
export interface ProcessContext {
  /** Supervisor privilege may be asked for. */
  readonly ens: boolean;
  readonly sum: boolean;
  readonly pscid: number;
  /** iosatp.MODE and PPN. */
  readonly mode: number;
  readonly root: number;
}

/** A guest-page fault while walking: the cause is that of the original access, which the caller knows. */
export const PDT_GUEST_PAGE_FAULT = -1;

/** The process directory: "Process to locate the Process-context". */
export class ProcessDirectory {
  /** Why `locate` found none; PDT_GUEST_PAGE_FAULT: the second stage refused `gpa`. */
  cause = 0;
  gpaHi = 0;
  gpaLo = 0;
  readonly #registers: Registers;
  readonly #structures: Structures;
  readonly #hpm: Hpm;

  constructor(registers: Registers, structures: Structures, hpm: Hpm) {
    this.#registers = registers;
    this.#structures = structures;
    this.#hpm = hpm;
  }

  locate(context: DeviceContext, process: number): ProcessContext | null {
    const { words } = this.#structures;
    // 1. Let a be pdtp.PPN x 2^12 and i = LEVELS - 1; PD8, PD17 and PD20 have one, two and three levels.
    let page = context.fscRoot;
    for (let level = context.fscMode - 1; level > 0; level--) {
      // 2. PDI[1] is process_id[16:8], PDI[2] process_id[19:17].
      const index = (process >>> (9 * level - 1)) & 0x1ff;
      if (!this.#read(context, page, index << 3, 1)) return null;
      // 7.
      if (!isSet(words, DDTE.V)) return this.#refuse(Cause.pdtNotValid);
      // 8.
      if (!reservedClear(words, DDTE_RESERVED)) return this.#refuse(Cause.pdtMisconfigured);
      // 9.
      page = getWide(words, DDTE.PPN);
    }
    // 10. Let PC be the value of the 16 bytes at a + PDI[0] x 16.
    if (!this.#read(context, page, (process & 0xff) << 4, 2)) return null;
    // 11.
    if (!isSet(words, PC.V)) return this.#refuse(Cause.pdtNotValid);
    // 12.
    if (brokenProcessRule(words, this.#registers, context.sxl) !== null) return this.#refuse(Cause.pdtMisconfigured);
    return {
      ens: isSet(words, PC.ENS),
      sum: isSet(words, PC.SUM),
      pscid: get(words, PC.PSCID),
      mode: get(words, PC.FSC_MODE),
      root: getWide(words, PC.FSC_PPN),
    };
  }

  /** 3. to 6.: entries lie in guest-physical memory where there is a second stage; they are read as DC.tc.SBE says. */
  #read(context: DeviceContext, page: number, offset: number, count: number): boolean {
    const { second } = context;
    let hi = hiOfPfn(page);
    let lo = loOfPfn(page) | offset;
    if (second !== null) {
      const before = second.reads;
      const lg2 = second.walk(hi, lo, READ);
      this.#hpm.count(Event.secondStageWalk, second.reads - before);
      if (lg2 < 0) {
        this.gpaHi = hi;
        this.gpaLo = lo;
        this.cause = faultKind(lg2) === FAULT_TABLE_ACCESS ? this.#accessCause : PDT_GUEST_PAGE_FAULT;
        return false;
      }
      hi = second.out[OUT_HI];
      lo = second.out[OUT_LO];
    }
    this.#hpm.count(Event.pdtWalk);
    if (this.#structures.read(hi, lo, count, context.sbe)) return true;
    this.cause = this.#accessCause;
    return false;
  }

  get #accessCause(): number {
    return this.#structures.poisoned ? Cause.pdtCorruption : Cause.pdtAccessFault;
  }

  #refuse(cause: number): null {
    this.cause = cause;
    return null;
  }
}
