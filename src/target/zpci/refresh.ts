import { joinHiLo, PAGE_BYTES, PFN_LIMIT, pfnOfHiLo } from '../../memory/address.ts';
import { NO_CONTEXT } from '../../memory/iotlb.ts';
import type { PfnRange } from '../target.ts';
import type { Errors } from './errors.ts';
import { COUNTER, STATE, type ZpciFunction } from './function.ts';
import type { Functions } from './functions.ts';
import { type GeneralRegisters, InstructionWord } from './registers.ts';
import { TableSpace } from './spaces.ts';
import { CC, INTERRUPTION, PEC, type RefreshAnswer, STATUS, UNFINISHED } from './spec/codes.ts';
import { TableCheck } from './table-check.ts';

/** Parts of one range, of ENTRY_BUDGET table entries each; tables may lead to themselves, so behind them all the rest is announced at once. */
const PARTS = 32;

/** How far the instruction of a CPU is. */
interface Progress {
  readonly space: TableSpace;
  readonly first: number;
  readonly last: number;
  /** All that was made of the leaves which covered [first, last]. */
  readonly announced: PfnRange;
  /** First page that is left. */
  at: number;
  parts: number;
  /** The hardware could not follow all of it. */
  isRefused: boolean;
}

/**
 * RPCIT, refresh PCI translations (QEMU: rpcit_service_call; Linux: zpci_refresh_trans of arch/s390/pci/pci_insn.c): the guest says that
 * a range of its tables may mean something else, new mappings included. Bounded by ENTRY_BUDGET entries read twice, once for what is malformed, once
 * by whoever backs the range with hardware: what lies behind them is the next part's. An observer that heard of all at once would take away what it
 * cannot look at.
 */
export class Refresh {
  readonly #functions: Functions;
  readonly #errors: Errors;
  readonly #check: TableCheck;
  /**
   * By the registers of the CPU, which is at one instruction at a time. The operands alone would not do: another CPU with the same ones means what
   * it has stored since.
   */
  readonly #unfinished = new WeakMap<GeneralRegisters, Progress>();

  constructor(functions: Functions, errors: Errors) {
    this.#functions = functions;
    this.#errors = errors;
    this.#check = new TableCheck(functions.memory);
  }

  /** R1: handle and status; R2: first byte; the register after R2: bytes. */
  run(registers: GeneralRegisters, r1: number, r2: number): RefreshAnswer {
    if ((r2 & 1) !== 0) return INTERRUPTION.specification;
    const { i32 } = registers;
    const one = this.#functions.byHandle(i32[2 * r1 + 1] >>> 0);
    if (one === null || !one.isEnabled) return CC.handle;
    const status = this.#statusOf(one, registers, 2 * r2);
    if (status === UNFINISHED) return UNFINISHED;
    if (status === 0) return CC.done;
    new InstructionWord(registers, r1).status(status);
    return CC.error;
  }

  /** `at`: the half register where the range stands. A status, 0 or UNFINISHED. */
  #statusOf(one: ZpciFunction, registers: GeneralRegisters, at: number): number {
    const r = registers.i32;
    const before = this.#unfinished.get(registers);
    if (before !== undefined) this.#unfinished.delete(registers);
    if (one.state === STATE.error) return STATUS.recovery;
    this.#functions.settleOwed();
    const space = one.translation;
    if (space === null) return this.#fail(one, PEC.addressSpace, joinHiLo(r[at + 1], r[at]));
    const start = pfnOfHiLo(r[at + 1], r[at]);
    const end = start + pagesOf(r, at);
    if (start > space.last || (start < space.first && end <= space.first)) return this.#fail(one, PEC.range, joinHiLo(r[at + 1], r[at]));
    const first = Math.max(start, space.first);
    const last = Math.min(end, PFN_LIMIT, space.last + 1) - 1;
    if (!(space instanceof TableSpace) || first > last) return this.#count(one, 0);
    const goesOn = before !== undefined && before.space === space && before.first === first && before.last === last;
    const progress = goesOn ? before : this.#begin(one, space, first, last);
    const status = this.#advance(one, progress);
    if (status === UNFINISHED) this.#unfinished.set(registers, progress);
    return status;
  }

  #begin(one: ZpciFunction, space: TableSpace, first: number, last: number): Progress {
    this.#functions.iotlb.invalidateRange(one.index, NO_CONTEXT, first, last);
    return { space, first, last, announced: space.leaves.widened(first, last), at: first, parts: 0, isRefused: false };
  }

  /** One part: as `#statusOf`. */
  #advance(one: ZpciFunction, progress: Progress): number {
    const { space, first, last, announced, at } = progress;
    const lastTranslated = Math.min(last, space.lastTranslated);
    const code = this.#check.find(space, at, lastTranslated);
    progress.parts++;
    const isDone = code !== 0 || this.#check.reached > lastTranslated || progress.parts > PARTS;
    const { observer } = this.#functions;
    if (observer !== null) {
      const from = at === first ? announced.first : at;
      const to = isDone ? announced.last : this.#check.reached - 1;
      observer.changed(one.space, Math.max(space.first, from), Math.min(space.last, to));
    }
    if (code !== 0) {
      // The space is left: nothing of it is reached, and the flush finds that so.
      const status = this.#fail(one, code, BigInt(this.#check.at) * BigInt(PAGE_BYTES));
      observer?.flush();
      return status;
    }
    if (observer !== null && observer.flush() < 0) progress.isRefused = true;
    if (!isDone) {
      progress.at = this.#check.reached;
      return UNFINISHED;
    }
    return this.#count(one, progress.isRefused ? STATUS.insufficient : 0);
  }

  /** Carried out, whatever the hardware could follow. */
  #count(one: ZpciFunction, status: number): number {
    one.counters[COUNTER.refresh]++;
    return status;
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
