import { PRIVILEGED } from '../../../memory/access.ts';
import { FAULT_TABLE_ACCESS, faultKind } from '../../../pagetable/page-table.ts';
import { BY_FIRST_STAGE, BY_TABLE_WRITE } from '../../../pagetable/two-stage.ts';
import { NO_PASID } from '../../target.ts';
import { Cause } from '../spec/causes.ts';
import type { Structures } from '../structures.ts';
import { type Contexts, PDT_GUEST_PAGE_FAULT, type Stages } from '../translation/contexts.ts';
import { byAccess, type RequestKind, typeOf } from '../translation/requests.ts';
import type { FaultQueue } from './fault-queue.ts';

interface RefusalParts {
  readonly structures: Structures;
  readonly contexts: Contexts;
  readonly faults: FaultQueue;
}

/** Why a request is refused: negated causes of what its contexts and walks answer, and the record with what they have left for iotval2. */
export class Refusals {
  readonly #structures: Structures;
  readonly #contexts: Contexts;
  readonly #faults: FaultQueue;
  #iotval2Hi = 0;
  #iotval2Lo = 0;

  constructor({ structures, contexts, faults }: RefusalParts) {
    this.#structures = structures;
    this.#contexts = contexts;
    this.#faults = faults;
  }

  /** Of another request. */
  begin(): void {
    this.#iotval2Hi = 0;
    this.#iotval2Lo = 0;
  }

  ofContext(access: number): number {
    const contexts = this.#contexts;
    if (contexts.cause !== PDT_GUEST_PAGE_FAULT) return -contexts.cause;
    // "Process to locate the Process-context": the read is implicit, the cause that of the original access.
    const [lo, hi] = contexts.refusedGpa;
    this.#iotval2Hi = hi;
    this.#iotval2Lo = (lo & ~3) | 1;
    return -byAccess(access, Cause.instructionGuestPageFault);
  }

  ofFirstStage(stages: Stages, code: number, access: number): number {
    const { nested } = stages;
    if (nested === null || nested.origin === BY_FIRST_STAGE) {
      return faultKind(code) === FAULT_TABLE_ACCESS ? this.#tableFault(access) : -byAccess(access, Cause.instructionPageFault);
    }
    // The page offset of the entry's address may be reported as 0 ("Fault/Event-Queue", note on iotval2).
    const flags = nested.origin === BY_TABLE_WRITE ? 3 : 1;
    return this.ofSecondStage(code, access, nested.gpaHi, nested.gpaLo & ~0xfff, flags);
  }

  /** A guest-page fault, or an access fault of the second stage. `flags`: iotval2 bits 1:0, the implicit access. */
  ofSecondStage(code: number, access: number, gpaHi: number, gpaLo: number, flags: number): number {
    if (faultKind(code) === FAULT_TABLE_ACCESS) return this.#tableFault(access);
    this.#iotval2Hi = gpaHi;
    this.#iotval2Lo = (gpaLo & ~3) | flags;
    return -byAccess(access, Cause.instructionGuestPageFault);
  }

  #tableFault(access: number): number {
    return this.#structures.poisoned ? -Cause.tableCorruption : -byAccess(access, Cause.instructionAccessFault);
  }

  report(kind: RequestKind, cause: number, device: number, process: number, hi: number, lo: number, access: number): void {
    this.#faults.report({
      cause,
      type: typeOf(kind, access, process),
      device,
      process: process === NO_PASID ? null : process,
      privileged: (access & PRIVILEGED) !== 0,
      suppressed: this.#contexts.quiet,
      iotvalHi: hi,
      iotvalLo: lo,
      iotval2Hi: this.#iotval2Hi,
      iotval2Lo: this.#iotval2Lo,
    });
  }
}
