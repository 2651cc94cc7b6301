import { READ } from '../../../memory/access.ts';
import { FAULT_TABLE_ACCESS, faultKind, OUT_HI, OUT_LO } from '../../../pagetable/page-table.ts';
import { Event, type Hpm } from '../control/hpm.ts';
import type { Registers } from '../control/registers.ts';
import { Cause } from '../reporting/fault-queue.ts';
import type { Structures } from '../structures.ts';
import { type DeviceContext, firstStageMode, ppn } from './device-directory.ts';

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

/** "Translation attributes (ta)" of a process-context, low half. */
const Ta = { v: 1, ens: 2, sum: 4, reserved: 0x1ff << 3 } as const;

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
      // 7. to 9. Non-leaf PDT entry: V 0, reserved 9:1, PPN 53:10, reserved 63:54.
      if ((words[0] & 1) === 0) return this.#refuse(Cause.pdtNotValid);
      if ((words[0] & 0x3fe) !== 0 || words[1] >>> 22 !== 0) return this.#refuse(Cause.pdtMisconfigured);
      page = words[1] * 2 ** 22 + (words[0] >>> 10);
    }
    // 10. Let PC be the value of the 16 bytes at a + PDI[0] x 16.
    if (!this.#read(context, page, (process & 0xff) << 4, 2)) return null;
    if ((words[0] & Ta.v) === 0) return this.#refuse(Cause.pdtNotValid);
    // 12. "Process-context configuration checks".
    const mode = words[3] >>> 28;
    const reserved = (words[0] & Ta.reserved) !== 0 || words[1] !== 0 || (words[3] & (0xffff << 12)) !== 0;
    if (reserved || firstStageMode(this.#registers, mode, context.sxl) === undefined) return this.#refuse(Cause.pdtMisconfigured);
    return { ens: (words[0] & Ta.ens) !== 0, sum: (words[0] & Ta.sum) !== 0, pscid: words[0] >>> 12, mode, root: ppn(words, 2) };
  }

  /** 3. to 6.: entries lie in guest-physical memory where there is a second stage; they are read as DC.tc.SBE says. */
  #read(context: DeviceContext, page: number, offset: number, count: number): boolean {
    const { second } = context;
    let hi = Math.floor(page / 2 ** 20) | 0;
    let lo = ((page % 2 ** 20) << 12) | offset;
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
