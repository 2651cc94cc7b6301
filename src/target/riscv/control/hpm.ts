import type { Interrupts } from '../reporting/interrupts.ts';
import { Cap, Interrupt, IOCOUNTINH, IOHPMCTR, IOHPMCYCLES, IOHPMEVT, type Registers } from './registers.ts';

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

/** iohpmevt, low half: eventID 14:0, DMASK 15, PID_PSCID 35:16; high half: DID_GSCID 59:36 and the flags. */
const DMASK = 1 << 15;
const PV_PSCV = 1 << 28;
const DV_GSCV = 1 << 29;
const IDT = 1 << 30;
const OF = 1 << 31;

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
  /** Events that some counter counts, as bits: without one, counting costs one AND. */
  armed = 0;
  #cyclesSeen = 0;

  constructor(registers: Registers, interrupts: Interrupts, config: HpmConfig, cycles?: () => number) {
    this.#registers = registers;
    this.#interrupts = interrupts;
    this.#config = config;
    this.#cycles = cycles;
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
      const at = IOHPMEVT + 8 * (counter - 1);
      const low = this.#registers.get(at);
      if ((low & 0x7fff) === event && this.#matches(event, low, this.#registers.get(at + 4))) this.#add(counter, times);
    }
  }

  /** "filtering options". */
  #matches(event: number, low: number, high: number): boolean {
    const { ids } = this;
    const bySoft = (high & IDT) !== 0;
    if (bySoft && (BY_SOFT_CONTEXT & (1 << event)) === 0) return false;
    if ((high & PV_PSCV) !== 0) {
      const wanted = (low >>> 16) | ((high & 0xf) << 16);
      if ((bySoft ? ids.pscid : ids.process) !== wanted) return false;
    }
    if ((high & DV_GSCV) !== 0) {
      const wanted = (high >>> 4) & 0xff_ffff;
      const id = bySoft ? ids.gscid : ids.device;
      // DMASK: the bits up to and including the lowest 0 of DID_GSCID do not matter.
      const mask = (low & DMASK) !== 0 ? ~(wanted ^ (wanted + 1)) : -1;
      if (id < 0 || ((id ^ wanted) & mask & 0xff_ffff) !== 0) return false;
    }
    return true;
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
    if (this.#registers.has(at + 4, OF)) return;
    this.#registers.setBits(at + 4, OF);
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
    let bits = this.#registers.has(IOHPMCYCLES + 4, OF) ? 1 : 0;
    for (let counter = 1; counter < this.#config.counters; counter++) {
      if (this.#registers.has(IOHPMEVT + 8 * (counter - 1) + 4, OF)) bits |= 1 << counter;
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
    this.#registers.set(IOHPMCYCLES + 4, (hi & highMask(Math.min(counterBits, 63))) | (hi & OF));
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
    const at = IOHPMEVT + 8 * (counter - 1);
    const legal = (lo & 0x7fff) <= this.#config.eventLimit;
    this.#registers.set(at, legal ? lo : (lo & ~0x7fff) | (this.#registers.get(at) & 0x7fff));
    this.#registers.set(at + 4, hi);
    this.rearm();
  }

  /** After the selectors changed. */
  rearm(): void {
    this.armed = 0;
    for (let counter = 1; counter < this.#config.counters; counter++) {
      const event = this.#registers.get(IOHPMEVT + 8 * (counter - 1)) & 0x7fff;
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
