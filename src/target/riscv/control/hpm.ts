import { get, getWide, isSet, put } from '../../fields.ts';
import type { Interrupts } from '../reporting/interrupts.ts';
import { Cap, Interrupt, IOCOUNTINH, IOHPMCTR, IOHPMCYCLES, IOHPMEVT, OVERFLOW, IOHPMEVT_FIELDS as SELECTOR } from '../spec/registers.ts';
import type { Registers } from './registers.ts';

/** "Standard Events list". */
export const Event = {
  untranslated: 1,
  translated: 2,
  atsTranslation: 3,
  tlbMiss: 4,
  ddtWalk: 5,
  pdtWalk: 6,
  firstStageWalk: 7,
  secondStageWalk: 8,
} as const;
const EVENTS = 9;
/** Events that can be filtered by GSCID and PSCID (IDT 1); the others do not count then. */
const BY_SOFT_CONTEXT = (1 << Event.tlbMiss) | (1 << Event.firstStageWalk) | (1 << Event.secondStageWalk);

/** Identities of the transaction at work; -1: it has none. */
export interface TransactionIds {
  device: number;
  process: number;
  gscid: number;
  pscid: number;
}

export interface HpmConfig {
  /** Counters, iohpmcycles included. */
  readonly counters: number;
  /** Width of the event counters. */
  readonly counterBits: number;
  /** Highest eventID that can be written. */
  readonly eventLimit: number;
}

/** "Performance-monitoring": event counters with filters, their overflows, and the cycle counter. */
export class Hpm {
  readonly ids: TransactionIds = { device: 0, process: -1, gscid: -1, pscid: -1 };
  readonly #registers: Registers;
  readonly #interrupts: Interrupts;
  readonly #config: HpmConfig;
  readonly #cycles: (() => number) | undefined;
  readonly #selectors: readonly Int32Array[];
  /** Events that some counter counts, as bits: without one, counting costs one AND. */
  armed = 0;
  #cyclesSeen = 0;

  constructor(registers: Registers, interrupts: Interrupts, config: HpmConfig, cycles?: () => number) {
    this.#registers = registers;
    this.#interrupts = interrupts;
    this.#config = config;
    this.#cycles = cycles;
    const { words } = registers;
    this.#selectors = Array.from({ length: config.counters - 1 }, (_, i) => words.subarray(IOHPMEVT / 4 + 2 * i, IOHPMEVT / 4 + 2 * i + 2));
  }

  /** A transaction begins; which address spaces it is of shows later. */
  begin(device: number, process: number): void {
    const { ids } = this;
    ids.device = device;
    ids.process = process;
    ids.gscid = -1;
    ids.pscid = -1;
  }

  count(event: number, times = 1): void {
    if ((this.armed & (1 << event)) === 0 || !this.#registers.can(Cap.hpm)) return;
    for (let counter = 1; counter < this.#config.counters; counter++) {
      if (this.#registers.has(IOCOUNTINH, 1 << counter)) continue;
      const selector = this.#selector(counter);
      if (get(selector, SELECTOR.EVENT_ID) === event && this.#matches(event, selector)) this.#add(counter, times);
    }
  }

  /** iohpmevt of an event counter, as its two words. */
  #selector(counter: number): Int32Array {
    return this.#selectors[counter - 1];
  }

  /** "filtering options". */
  #matches(event: number, selector: Int32Array): boolean {
    const { ids } = this;
    const bySoft = isSet(selector, SELECTOR.IDT);
    if (bySoft && (BY_SOFT_CONTEXT & (1 << event)) === 0) return false;
    if (isSet(selector, SELECTOR.PV_PSCV) && (bySoft ? ids.pscid : ids.process) !== getWide(selector, SELECTOR.PID_PSCID)) return false;
    if (!isSet(selector, SELECTOR.DV_GSCV)) return true;
    const wanted = get(selector, SELECTOR.DID_GSCID);
    const id = bySoft ? ids.gscid : ids.device;
    // DMASK: the bits up to and including the lowest 0 of DID_GSCID do not matter.
    const mask = isSet(selector, SELECTOR.DMASK) ? ~(wanted ^ (wanted + 1)) : -1;
    return id >= 0 && ((id ^ wanted) & mask & SELECTOR.DID_GSCID.mask) === 0;
  }

  #add(counter: number, times: number): void {
    const at = IOHPMCTR + 8 * (counter - 1);
    if (this.#bump(at, times, this.#config.counterBits)) this.#overflow(IOHPMEVT + 8 * (counter - 1));
  }

  /** Adds to a counter of `bits` bits; true when it wrapped. */
  #bump(at: number, times: number, bits: number): boolean {
    const registers = this.#registers;
    const low = (registers.get(at) >>> 0) + times;
    const lowBits = Math.min(bits, 32);
    const carry = Math.floor(low / 2 ** lowBits);
    registers.set(at, (low % 2 ** lowBits) | 0);
    if (bits <= 32 || carry === 0) return carry > 0;
    const limit = 2 ** (bits - 32);
    // Bits of the high half above the counter are no part of it: iohpmcycles.OF.
    const high = (registers.get(at + 4) >>> 0) % limit;
    const rest = (registers.get(at + 4) >>> 0) - high;
    registers.set(at + 4, (rest + ((high + carry) % limit)) | 0);
    return high + carry >= limit;
  }

  /** Sets an OF bit; an edge of it interrupts. */
  #overflow(at: number): void {
    if (this.#registers.has(at + 4, OVERFLOW)) return;
    this.#registers.setBits(at + 4, OVERFLOW);
    this.#interrupts.raise(Interrupt.monitor);
  }

  /** Brings iohpmcycles up to now. */
  tick(): void {
    if (this.#cycles === undefined || !this.#registers.can(Cap.hpm)) return;
    const now = this.#cycles();
    const passed = Math.max(0, now - this.#cyclesSeen);
    this.#cyclesSeen = now;
    if (!this.#registers.has(IOCOUNTINH, 1) && this.#bump(IOHPMCYCLES, passed, 63)) this.#overflow(IOHPMCYCLES);
  }

  /** "Performance-monitoring counter overflow status": shadows of the OF bits. */
  overflows(): number {
    let bits = this.#registers.has(IOHPMCYCLES + 4, OVERFLOW) ? 1 : 0;
    for (let counter = 1; counter < this.#config.counters; counter++) {
      if (this.#registers.has(IOHPMEVT + 8 * (counter - 1) + 4, OVERFLOW)) bits |= 1 << counter;
    }
    return bits;
  }

  writeInhibit(value: number): void {
    this.tick();
    this.#registers.set(IOCOUNTINH, value & ((2 ** this.#config.counters - 1) | 0));
    this.rearm();
  }

  /** iohpmcycles is one of the counters, with its OF in bit 63. */
  writeCycles(hi: number, lo: number): void {
    this.tick();
    const { counterBits } = this.#config;
    this.#registers.set(IOHPMCYCLES, lo & lowMask(counterBits));
    this.#registers.set(IOHPMCYCLES + 4, (hi & highMask(Math.min(counterBits, 63))) | (hi & OVERFLOW));
  }

  writeCounter(counter: number, hi: number, lo: number): void {
    if (counter >= this.#config.counters) return;
    const at = IOHPMCTR + 8 * (counter - 1);
    this.#registers.set(at, lo & lowMask(this.#config.counterBits));
    this.#registers.set(at + 4, hi & highMask(this.#config.counterBits));
  }

  /** An eventID that is not supported keeps the old one (WARL). */
  writeEvent(counter: number, hi: number, lo: number): void {
    if (counter >= this.#config.counters) return;
    const selector = this.#selector(counter);
    const before = get(selector, SELECTOR.EVENT_ID);
    selector[0] = lo;
    selector[1] = hi;
    if (get(selector, SELECTOR.EVENT_ID) > this.#config.eventLimit) put(selector, SELECTOR.EVENT_ID, before);
    this.rearm();
  }

  /** After the selectors changed. */
  rearm(): void {
    this.armed = 0;
    for (let counter = 1; counter < this.#config.counters; counter++) {
      const event = get(this.#selector(counter), SELECTOR.EVENT_ID);
      if (event < EVENTS && !this.#registers.has(IOCOUNTINH, 1 << counter)) this.armed |= 1 << event;
    }
    this.armed &= ~1;
  }
}

function lowMask(bits: number): number {
  return bits >= 32 ? -1 : (1 << bits) - 1;
}
function highMask(bits: number): number {
  return bits >= 64 ? -1 : bits <= 32 ? 0 : (1 << (bits - 32)) - 1;
}
