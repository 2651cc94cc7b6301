import { joinHiLo, PAGE_BYTES, PFN_LIMIT, pfnOfHiLo } from '../../memory/address.ts';
import { NO_CONTEXT } from '../../memory/iotlb.ts';
import type { Errors } from './errors.ts';
import { COUNTER, STATE, type ZpciFunction } from './function.ts';
import type { Functions } from './functions.ts';
import { type GeneralRegisters, InstructionWord } from './registers.ts';
import { TableSpace } from './spaces.ts';
import { CC, INTERRUPTION, PEC, STATUS } from './spec/codes.ts';
import { TableCheck } from './table-check.ts';

/**
 * RPCIT, refresh PCI translations (QEMU: rpcit_service_call; Linux: zpci_refresh_trans of arch/s390/pci/pci_insn.c): the guest says that
 * a range of its tables may mean something else, new mappings included. Bounded by ENTRY_BUDGET entries read twice: once for what is malformed, once
 * by whoever backs the range with hardware.
 */
export class Refresh {
  readonly #functions: Functions;
  readonly #errors: Errors;
  readonly #check: TableCheck;

  constructor(functions: Functions, errors: Errors) {
    this.#functions = functions;
    this.#errors = errors;
    this.#check = new TableCheck(functions.memory);
  }

  /** R1: handle and status; R2: first byte; the register after R2: bytes. */
  run(registers: GeneralRegisters, r1: number, r2: number): number {
    if ((r2 & 1) !== 0) return INTERRUPTION.specification;
    const { i32 } = registers;
    const one = this.#functions.byHandle(i32[2 * r1 + 1] >>> 0);
    if (one === null || !one.isEnabled) return CC.handle;
    const status = this.#statusOf(one, i32, 2 * r2);
    if (status === 0) return CC.done;
    new InstructionWord(registers, r1).status(status);
    return CC.error;
  }

  #statusOf(one: ZpciFunction, r: Int32Array, at: number): number {
    if (one.state === STATE.error) return STATUS.recovery;
    this.#functions.settleOwed();
    const space = one.translation;
    if (space === null) return this.#fail(one, PEC.addressSpace, joinHiLo(r[at + 1], r[at]));
    const start = pfnOfHiLo(r[at + 1], r[at]);
    const end = start + pagesOf(r, at);
    if (start > space.last || (end <= space.first && end > start)) return this.#fail(one, PEC.range, joinHiLo(r[at + 1], r[at]));
    const first = Math.max(start, space.first);
    const last = Math.min(end, PFN_LIMIT, space.last + 1) - 1;
    one.counters[COUNTER.refresh]++;
    if (!(space instanceof TableSpace) || first > last) return 0;
    this.#functions.iotlb.invalidateRange(one.index, NO_CONTEXT, first, last);
    const lastTranslated = Math.min(last, space.lastTranslated);
    const code = this.#check.find(space, first, lastTranslated);
    const { observer } = this.#functions;
    if (observer !== null) {
      const range = space.leaves.widened(first, last);
      observer.changed(one.space, Math.max(space.first, range.first), Math.min(space.last, range.last));
    }
    if (code !== 0) {
      // The space is left: nothing of it is reached, and the flush finds that so.
      const status = this.#fail(one, code, BigInt(this.#check.at) * BigInt(PAGE_BYTES));
      observer?.flush();
      return status;
    }
    return observer !== null && observer.flush() < 0 ? STATUS.insufficient : 0;
  }

  #fail(one: ZpciFunction, code: number, address: bigint): number {
    this.#errors.fail(one, code, address);
    return STATUS.functionInError;
  }
}

/** Pages that the range in two registers touches, counted from the first byte's page. */
function pagesOf(r: Int32Array, at: number): number {
  const within = (r[at] & 0xfff) + (r[at + 2] & 0xfff);
  return pfnOfHiLo(r[at + 3], r[at + 2]) + Math.ceil(within / PAGE_BYTES);
}
