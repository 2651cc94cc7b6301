import { EXECUTE, PRIVILEGED, READ, READ_WRITE, WRITE } from '../../../memory/access.ts';
import { pfnOfHiLo } from '../../../memory/address.ts';
import { Iotlb } from '../../../memory/iotlb.ts';
import { OUT_HI, OUT_LENGTH, OUT_LO, OUT_PERMISSION } from '../../../pagetable/page-table.ts';
import { NO_PASID } from '../../target.ts';
import type { ProtectedMemory } from '../control/protected-memory.ts';
import type { Registers } from '../control/registers.ts';
import { type FaultLog, RequestType } from '../reporting/fault-log.ts';
import { Fault, PROTECTED } from '../spec/faults.ts';
import type { Contexts } from './contexts.ts';
import { reasonOf } from './stage-faults.ts';
import type { Stages } from './stages.ts';

/** Requests that the IOTLB knows nothing of: of a supervisor, or to execute. Here because the compiler folds a module's own constants only. */
const SPECIAL = 12;
const RW = 3;
/** For the test that compares them with their declarations. */
export const REPEATED = { SPECIAL, RW } as const;
/** No device's number, and no address space's. */
const NOBODY = -0x8000_0000;
/** lg2 of the interrupt address range, FEEx_xxxxh, and of the bytes for which a pass-through answer holds. */
const INTERRUPT_RANGE_LG2 = 20;
const INTERRUPT_RANGE = 0xfee;
const SMALL_LG2 = 12;

export interface TranslatorParts {
  readonly registers: Registers;
  readonly contexts: Contexts;
  readonly faults: FaultLog;
  readonly protectedMemory: ProtectedMemory;
  /** Bits of a physical address. */
  readonly addressWidth: number;
  readonly iotlbEntries: number;
}

/** Untranslated requests (3.14, 7.1.3): contexts, stages, and the IOTLB in front of them. */
export class Translator {
  /** What the IOTLB answers with: [lo, hi], then more. */
  readonly translated: Int32Array;
  readonly iotlb: Iotlb;
  readonly #registers: Registers;
  readonly #contexts: Contexts;
  readonly #faults: FaultLog;
  readonly #addressWidth: number;
  readonly #protected: ProtectedMemory;
  readonly #fill = new Int32Array(OUT_LENGTH);
  /** Whose request was translated last, and how: most come in a row. Without `#stages` nobody's. */
  #device = NOBODY;
  #pasid = NO_PASID;
  #stages: Stages | null = null;

  constructor(parts: TranslatorParts) {
    const { registers, contexts, faults, addressWidth, iotlbEntries } = parts;
    this.#registers = registers;
    this.#contexts = contexts;
    this.#faults = faults;
    this.#addressWidth = addressWidth;
    this.#protected = parts.protectedMemory;
    this.iotlb = new Iotlb(iotlbEntries);
    this.translated = this.iotlb.out;
  }

  /** One access: lg2 of the bytes around the address for which `translated` holds, or the negative reason of a fault. */
  translate(device: number, pasid: number, hi: number, lo: number, access: number): number {
    if (pasid === NO_PASID && isInterrupt(hi, lo)) return this.#interrupt(device, hi, lo, access);
    if (!this.#registers.translating) return this.#passUnprotected(hi, lo);
    let stages = device === this.#device && pasid === this.#pasid ? this.#stages : null;
    if (stages === null) {
      stages = this.#contexts.find(device, pasid);
      if (stages === null) return this.#blocked(device, pasid, hi, lo, access, this.#contexts.reason, this.#contexts.suppressed);
      this.#remember(device, pasid, stages);
    }
    const { iotlb } = this;
    if ((access & SPECIAL) === 0) {
      const lg2 = iotlb.lookup(stages.space, stages.context, hi, lo, access & RW);
      iotlb.serve(device, pasid);
      if (lg2 >= 0) return lg2;
    }
    iotlb.misses++;
    const result = this.walk(stages, pasid, hi, lo, access);
    return result >= 0 ? result : this.#blocked(device, pasid, hi, lo, access, -result, stages.suppressed);
  }

  /** What was looked up may no longer be so. */
  forgetLast(): void {
    this.#device = NOBODY;
    this.#stages = null;
    this.iotlb.serveNobody();
  }

  #remember(device: number, pasid: number, stages: Stages): void {
    this.#device = device;
    this.#pasid = pasid;
    this.#stages = stages;
  }

  /**
   * 3.14: a write of a request without PASID to the interrupt range is an interrupt, whatever the tables say: the address stays as it
   * is, and its 4 bytes belong to interrupt remapping. Nothing else may go there.
   */
  #interrupt(device: number, hi: number, lo: number, access: number): number {
    if ((access & RW) !== WRITE) return this.#blocked(device, NO_PASID, hi, lo, access, Fault['IR.29'], false);
    return this.#pass(hi, lo);
  }

  /** What no table decides about: where it says, but for protected memory. */
  #passUnprotected(hi: number, lo: number): number {
    return this.#protected.holds(pfnOfHiLo(hi, lo)) ? -PROTECTED : this.#pass(hi, lo);
  }

  #pass(hi: number, lo: number): number {
    const { translated } = this;
    translated[0] = lo;
    translated[1] = hi;
    return SMALL_LG2;
  }

  /** The tables' answer, in `translated`; or the negative reason of a fault, which is not recorded. */
  walk(stages: Stages, pasid: number, hi: number, lo: number, access: number): number {
    let wish = access & (READ_WRITE | PRIVILEGED);
    if (pasid === NO_PASID) {
      // 9.4: requests without PASID are a user's, and do not execute.
      wish = (access & EXECUTE) !== 0 ? (access & READ_WRITE) | READ : access & READ_WRITE;
    } else {
      if ((access & EXECUTE) !== 0) return stages.legacy ? -Fault['RTA.2'] : -Fault['SPT.5'];
      if ((access & PRIVILEGED) !== 0 && !stages.supervisor) return -Fault['SPT.6'];
    }
    const { firstTable, secondTable, nested } = stages;
    const table = nested ?? firstTable ?? secondTable;
    if (table === null) return this.#passThrough(stages, hi, lo);
    const lg2 = table.walk(hi, lo, wish);
    if (lg2 < 0) return -reasonOf(stages, lg2, hi, lo, wish);
    const { out } = table;
    const outHi = out[OUT_HI];
    const outLo = out[OUT_LO];
    if (isInterrupt(outHi, outLo)) return stages.legacy ? -Fault['LGN.4'] : -Fault['SGN.8'];
    return this.#cache(stages, hi, lo, lg2, out, wish);
  }

  /** Leaves the answer in `translated`, and a copy in the IOTLB where that may answer other requests. */
  #cache(stages: Stages, hi: number, lo: number, lg2: number, out: Int32Array, wish: number): number {
    const fill = this.#fill;
    const marksDirty = stages.first !== null || stages.second!.accessedDirty;
    let permission = out[OUT_PERMISSION] & READ_WRITE;
    // The first write has to come back to the tables, which mark the page dirty.
    if (marksDirty && (wish & WRITE) === 0) permission &= ~WRITE;
    fill[OUT_LO] = out[OUT_LO];
    fill[OUT_HI] = out[OUT_HI];
    fill[OUT_PERMISSION] = permission;
    // A page around the interrupt range is cached, and answered, without it.
    let size = lg2;
    if (size > INTERRUPT_RANGE_LG2 && (meetsInterrupts(hi, lo, size) || meetsInterrupts(fill[OUT_HI], fill[OUT_LO], size)))
      size = INTERRUPT_RANGE_LG2;
    if ((wish & PRIVILEGED) === 0 && !isInterrupt(hi, lo)) this.iotlb.fill(stages.space, stages.context, hi, lo, size, fill);
    const { translated } = this;
    translated[0] = out[OUT_LO];
    translated[1] = out[OUT_HI];
    return size;
  }

  /** LGN.1.3, SGN.4.2, and SGN.8.1 for a request with PASID. */
  #passThrough(stages: Stages, hi: number, lo: number): number {
    if (hi >>> (this.#addressWidth - 32) !== 0) return stages.legacy ? -Fault['LGN.1'] : -Fault['SGN.4'];
    if (isInterrupt(hi, lo)) return -Fault['SGN.8'];
    return this.#passUnprotected(hi, lo);
  }

  #blocked(device: number, pasid: number, hi: number, lo: number, access: number, reason: number, suppressed: boolean): number {
    if (reason === PROTECTED) return -PROTECTED;
    const privileged = (access & PRIVILEGED) !== 0;
    const execute = (access & EXECUTE) !== 0;
    this.#faults.record(reason, suppressed, { device, pasid, hi, lo, type: typeOf(access), privileged, execute, addressType: 0 });
    return -reason;
  }
}

export function typeOf(access: number): number {
  if ((access & WRITE) === 0) return RequestType.read;
  return (access & READ) === 0 ? RequestType.write : RequestType.atomic;
}

/** FEEx_xxxxh. */
export function isInterrupt(hi: number, lo: number): boolean {
  return hi === 0 && lo >>> INTERRUPT_RANGE_LG2 === INTERRUPT_RANGE;
}

/** Whether a page of 2^lg2 bytes (21 to 30) around an address meets FEEx_xxxxh. */
function meetsInterrupts(hi: number, lo: number, lg2: number): boolean {
  return hi === 0 && lo >>> lg2 === INTERRUPT_RANGE >>> (lg2 - INTERRUPT_RANGE_LG2);
}
