import { hiOfPfn, loOfPfn } from '../../../memory/address.ts';
import type { GuestMemory } from '../../../memory/guest-memory.ts';
import type { Registers } from '../control/registers.ts';
import { RECORD_BYTES } from '../spec/events.ts';
import { CONTROL, POINTER_MASK, REG, STATUS } from '../spec/registers.ts';
import type { AmdIommuOptions } from '../surroundings.ts';

/** Registers and bits of one log. */
export interface LogPlaces {
  readonly base: number;
  readonly head: number;
  readonly tail: number;
  readonly enable: (typeof CONTROL)[keyof typeof CONTROL];
  readonly interruptEnable: (typeof CONTROL)[keyof typeof CONTROL];
  readonly running: (typeof STATUS)[keyof typeof STATUS];
  readonly overflow: (typeof STATUS)[keyof typeof STATUS];
  readonly interrupt: (typeof STATUS)[keyof typeof STATUS];
  readonly xt: number;
}

export const EVENT_LOG: LogPlaces = {
  base: REG.EVENT_BASE,
  head: REG.EVENT_HEAD,
  tail: REG.EVENT_TAIL,
  enable: CONTROL.EVENT_LOG_EN,
  interruptEnable: CONTROL.EVENT_INT_EN,
  running: STATUS.EVENT_LOG_RUN,
  overflow: STATUS.EVENT_OVERFLOW,
  interrupt: STATUS.EVENT_LOG_INT,
  xt: REG.XT_GENERAL,
};
export const PPR_LOG: LogPlaces = {
  base: REG.PPR_BASE,
  head: REG.PPR_HEAD,
  tail: REG.PPR_TAIL,
  enable: CONTROL.PPR_LOG_EN,
  interruptEnable: CONTROL.PPR_INT_EN,
  running: STATUS.PPR_LOG_RUN,
  overflow: STATUS.PPR_OVERFLOW,
  interrupt: STATUS.PPR_INT,
  xt: REG.XT_PPR,
};

/** A ring of 16-byte records that the IOMMU writes and the guest reads (2.5, 2.6). */
export class RingLog {
  readonly #registers: Registers;
  readonly #memory: GuestMemory;
  readonly #places: LogPlaces;
  readonly #interrupt: AmdIommuOptions['interrupt'];

  constructor(registers: Registers, { memory, interrupt }: AmdIommuOptions, places: LogPlaces) {
    this.#registers = registers;
    this.#memory = memory;
    this.#places = places;
    this.#interrupt = interrupt;
  }

  /** The enable bit was written: with 1 the log runs, unless it has overflowed and the guest has not cleared that (3.4.14). */
  configured(): void {
    const { enable, running, overflow } = this.#places;
    this.#registers.status(running, this.#registers.control(enable) !== 0 && !this.#registers.hasStatus(overflow));
  }

  /** Appends a record, and interrupts. False: the log does not run, is full, or is not in memory; a full one stops until it is enabled again. */
  append(words: Int32Array): boolean {
    const registers = this.#registers;
    const { base, head, tail, running, overflow } = this.#places;
    if (!registers.hasStatus(running)) return false;
    const bytes = registers.ringBytes(base);
    const at = registers.get32(tail) & (bytes - 1) & POINTER_MASK;
    const next = (at + RECORD_BYTES) & (bytes - 1);
    if (next === (registers.get32(head) & (bytes - 1) & POINTER_MASK)) {
      registers.status(overflow, true);
      registers.status(running, false);
      this.#signal();
      return false;
    }
    const page = registers.ringPage(base) + (at >>> 12);
    const lo = loOfPfn(page) | (at & 0xfff);
    if (this.#memory.store64(hiOfPfn(page), lo, words[1], words[0]) < 0) return false;
    this.#memory.store64(hiOfPfn(page), lo + 8, words[3], words[2]);
    registers.set32(tail, next);
    this.#signal();
    return true;
  }

  #signal(): void {
    const { interruptEnable, interrupt, xt } = this.#places;
    this.#registers.status(interrupt, true);
    if (this.#registers.control(interruptEnable) !== 0) this.#interrupt?.(this.#registers.ownInterrupt(xt));
  }
}
