import { PAGE_BYTES } from '../../memory/address.ts';
import type { GuestMemory } from '../../memory/guest-memory.ts';
import type { TargetObserver } from '../target.ts';
import type { DmaWindow } from './dma-window.ts';
import type { GuestRam } from './guest-ram.ts';
import type { HypercallRegisters } from './hypercall-registers.ts';
import { H_FUNCTION, H_HARDWARE, H_NOT_ENOUGH_RESOURCES, H_P4, H_PARAMETER, H_SUCCESS, TCES_PER_CALL } from './spec/hcalls.ts';
import { TCE_PERMISSION } from './spec/tce.ts';
import { TceArray } from './tce-table.ts';

/**
 * Opcodes, H_SUCCESS, and int32 indices of a hypercall's parameters, low half of GPRs 4 to 7, the high half behind it, as spec/hcalls.ts
 * declares them; here because the compiler folds a module's own constants only.
 */
const GET_TCE = 0x1c;
const PUT_TCE = 0x20;
const STUFF_TCE = 0x138;
const PUT_TCE_INDIRECT = 0x13c;
const SUCCESS = 0;
const LIOBN = 8;
const IOBA = 10;
const TCE = 12;
const LIST = 12;
const COUNT = 14;
/** Of what H_GET_TCE answers. */
const RESULT = 8;
/** For the test that compares them with their declaration. */
export const REPEATED = { GET_TCE, PUT_TCE, STUFF_TCE, PUT_TCE_INDIRECT, SUCCESS, LIOBN, IOBA, TCE, LIST, COUNT, RESULT } as const;

/**
 * The return code when the host does not follow: for a mapping what Linux unwinds its own work on (14.12.3.3.1), for a clearing what
 * every hypercall may answer (14.5.3 R1-12). `lo`: the low halves of the TCEs, ORed.
 */
function refusal(lo: number): number {
  return (lo & TCE_PERMISSION) === 0 ? H_HARDWARE : H_NOT_ENOUGH_RESOURCES;
}

/**
 * The hypercalls on TCEs (LoPAR 14.5.4.2). Each check is named by the parameter that it is of, in the order in which the section takes them; what
 * is refused leaves everything as it was (14.5.3 R1-13).
 */
export class Hypercalls {
  observer: TargetObserver | null = null;
  readonly #memory: GuestMemory;
  readonly #ram: GuestRam;
  readonly #windows: ReadonlyMap<number, DmaWindow>;
  /** The window of the last hypercall: guests stay with one for long. */
  #window: DmaWindow | null = null;
  #liobn = 0;
  /** The TCEs that a hypercall is about to store, copied out of the guest's reach, and those that they replace. */
  readonly #tces = new TceArray(TCES_PER_CALL);
  readonly #old = new TceArray(TCES_PER_CALL);

  /** `windows`: by LIOBN as int32. */
  constructor(memory: GuestMemory, ram: GuestRam, windows: ReadonlyMap<number, DmaWindow>) {
    this.#memory = memory;
    this.#ram = ram;
    this.#windows = windows;
  }

  /** After the windows changed. */
  forget(): void {
    this.#window = null;
    this.#liobn = 0;
  }

  /** What the guest gets in R3. */
  call(opcode: number, registers: HypercallRegisters): number {
    const r = registers.i32;
    switch (opcode) {
      case PUT_TCE:
        return this.#putTce(r);
      case PUT_TCE_INDIRECT:
        return this.#putTceIndirect(r);
      case STUFF_TCE:
        return this.#stuffTce(r);
      case GET_TCE:
        return this.#getTce(r);
      default:
        return H_FUNCTION;
    }
  }

  /** 14.5.4.2.2. An IOBA that is no page's start is refused, as KVM does; QEMU rounds it down. */
  #putTce(r: Int32Array): number {
    // LIOBN.
    const window = this.#findWindow(r[LIOBN + 1], r[LIOBN]);
    if (window === null) return H_PARAMETER;
    // IOBA.
    const index = window.indexOfIoba(r[IOBA + 1], r[IOBA]);
    if (index < 0) return H_PARAMETER;
    // TCE.
    const lo = r[TCE];
    const hi = r[TCE + 1];
    if (!this.#ram.allows(window, hi, lo)) return H_PARAMETER;
    // Where there is storage and nobody to tell. The rest is a function of its own, which V8 leaves out of this one.
    return this.observer === null && window.table.put(index, hi, lo) ? SUCCESS : this.#replace(window, index, hi, lo);
  }

  /** Puts a TCE where another stands, and takes it back when the host does not follow. */
  #replace(window: DmaWindow, index: number, hi: number, lo: number): number {
    const old = window.table.chunk(index);
    const oldHi = old.hi(index);
    const oldLo = old.lo(index);
    if (oldHi === hi && oldLo === lo) return H_SUCCESS;
    const chunk = window.table.writable(index);
    if (chunk === null) return H_NOT_ENOUGH_RESOURCES;
    chunk.set(index, hi, lo);
    if (this.#tell(window, index, index)) return H_SUCCESS;
    chunk.set(index, oldHi, oldLo);
    this.#tell(window, index, index);
    return refusal(lo);
  }

  /** 14.5.4.2.4. Every TCE is read once, and checked before any is stored. */
  #putTceIndirect(r: Int32Array): number {
    // LIOBN, its sign: the Multi-TCE-Table option, which is not there.
    if (r[LIOBN + 1] < 0) return H_FUNCTION;
    // Count, the limit of a call.
    const count = r[COUNT] >>> 0;
    if (r[COUNT + 1] !== 0 || count > TCES_PER_CALL) return H_PARAMETER;
    // LIOBN.
    const window = this.#findWindow(r[LIOBN + 1], r[LIOBN]);
    if (window === null) return H_PARAMETER;
    // IOBA.
    const index = window.indexOfIoba(r[IOBA + 1], r[IOBA]);
    if (index < 0) return H_PARAMETER;
    // Count, the end of the window.
    if (index + count > window.pages) return H_PARAMETER;
    // List: "page address", and RAM.
    if ((r[LIST] & 0xfff) !== 0) return H_PARAMETER;
    if (this.#memory.read(r[LIST + 1], r[LIST], this.#tces.bytes, 0, PAGE_BYTES) < 0) return H_PARAMETER;
    // TCEs.
    return this.#ram.allowsAll(window, this.#tces, count) ? this.#store(window, index, count) : H_PARAMETER;
  }

  /** 14.5.4.2.3. */
  #stuffTce(r: Int32Array): number {
    // LIOBN.
    const window = this.#findWindow(r[LIOBN + 1], r[LIOBN]);
    if (window === null) return H_PARAMETER;
    // IOBA.
    const index = window.indexOfIoba(r[IOBA + 1], r[IOBA]);
    if (index < 0) return H_PARAMETER;
    // Count, the limit of a call.
    const count = r[COUNT] >>> 0;
    if (r[COUNT + 1] !== 0 || count > TCES_PER_CALL) return H_P4;
    // Count, the end of the window.
    if (index + count > window.pages) return H_PARAMETER;
    // TCE.
    if (!this.#ram.allows(window, r[TCE + 1], r[TCE])) return H_PARAMETER;
    for (let i = 0; i < count; i++) this.#tces.set(i, r[TCE + 1], r[TCE]);
    return this.#store(window, index, count);
  }

  /** 14.5.4.2.1. H_PARTIAL cannot be: every page that a TCE names is the guest's own. */
  #getTce(r: Int32Array): number {
    // LIOBN.
    const window = this.#findWindow(r[LIOBN + 1], r[LIOBN]);
    if (window === null) return H_PARAMETER;
    // IOBA.
    const index = window.indexOfIoba(r[IOBA + 1], r[IOBA]);
    if (index < 0) return H_PARAMETER;
    const chunk = window.table.chunk(index);
    r[RESULT] = chunk.lo(index);
    r[RESULT + 1] = chunk.hi(index);
    return H_SUCCESS;
  }

  #findWindow(liobnHi: number, liobn: number): DmaWindow | null {
    if (liobnHi !== 0) return null;
    if (liobn === this.#liobn) return this.#window;
    const window = this.#windows.get(liobn);
    if (window === undefined) return null;
    this.#liobn = liobn;
    this.#window = window;
    return window;
  }

  /** Stores the first `count` of `#tces` from `index` on, those at either end that stand there already left out. */
  #store(window: DmaWindow, index: number, count: number): number {
    const { table } = window;
    const tces = this.#tces;
    const first = table.firstDifference(index, tces, count);
    if (first === count) return H_SUCCESS;
    const last = table.lastDifference(index, tces, count);
    if (!table.reserve(index, tces, first, last + 1)) return H_NOT_ENOUGH_RESOURCES;
    table.read(index, this.#old, first, last + 1);
    table.write(index, tces, first, last + 1);
    if (this.#tell(window, index + first, index + last)) return H_SUCCESS;
    table.write(index, this.#old, first, last + 1);
    this.#tell(window, index + first, index + last);
    let granted = 0;
    for (let i = 0; i < count; i++) granted |= tces.lo(i);
    return refusal(granted);
  }

  /** Says that the meaning of a window's TCEs may be another one, and whether the host followed. */
  #tell(window: DmaWindow, first: number, last: number): boolean {
    const observer = this.observer;
    if (observer === null) return true;
    observer.changed(window.space, window.first + first * window.grain, window.first + (last + 1) * window.grain - 1);
    return observer.flush() >= 0;
  }
}
