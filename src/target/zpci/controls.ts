import { hiOf, loOf } from '../../memory/address.ts';
import { get, put } from '../fields.ts';
import { type Indicators, STATE, type ZpciFunction } from './function.ts';
import type { Functions } from './functions.ts';
import type { AdapterInterrupts } from './interrupts.ts';
import type { Measurement } from './measurement.ts';
import { type GeneralRegisters, InstructionWord } from './registers.ts';
import type { Registration } from './spaces.ts';
import { type Answer, CC, INTERRUPTION, MPCIFC, STATUS } from './spec/codes.ts';
import { FIB, FIB_BYTES, FIB_FC, FIB_INTERRUPTS } from './spec/fib.ts';

const PAGE_MASK = 0xfffn;
/** Condition code 1, and the status as the guest had it. */
const NO_STATUS = 0x100;

/** MPCIFC and STPCIFC, modify and store PCI function controls (QEMU: mpcifc_service_call, stpcifc_service_call), by way of a FIB in memory. */
export class FunctionControls {
  readonly #functions: Functions;
  readonly #interrupts: AdapterInterrupts;
  readonly #measurement: Measurement;
  readonly #bytes = new Uint8Array(FIB_BYTES);
  readonly #fib = new DataView(this.#bytes.buffer);

  constructor(functions: Functions, interrupts: AdapterInterrupts, measurement: Measurement) {
    this.#functions = functions;
    this.#interrupts = interrupts;
    this.#measurement = measurement;
  }

  /** `address`: absolute, of the FIB. */
  modify(registers: GeneralRegisters, r1: number, address: bigint): Answer {
    if ((address & 7n) !== 0n) return INTERRUPTION.specification;
    const word = new InstructionWord(registers, r1);
    const one = this.#functions.byHandle(word.handle);
    if (one === null || !one.isEnabled) return CC.handle;
    if (this.#functions.memory.read(hiOf(address), loOf(address), this.#bytes, 0, FIB_BYTES) < 0) return INTERRUPTION.addressing;
    if (this.#fib.getUint8(FIB.FORMAT) !== 0) return INTERRUPTION.operand;
    this.#functions.settleOwed();
    const answer = this.#modify(one, word);
    if (answer === INTERRUPTION.operand) return INTERRUPTION.operand;
    if (answer === 0) return CC.done;
    if (answer !== NO_STATUS) word.status(answer);
    return CC.error;
  }

  /** 0, a status or NO_STATUS, or an interruption. A measurement block with a key has no status (QEMU: mpcifc_service_call). */
  #modify(one: ZpciFunction, word: InstructionWord): number {
    switch (word.operation) {
      case MPCIFC.registerInterrupts:
        return this.#registerInterrupts(one);
      case MPCIFC.unregisterInterrupts:
        if (one.indicators === null) return STATUS.sequence;
        one.indicators = null;
        return 0;
      case MPCIFC.registerTranslation:
        return this.#translation(one, word, false, true);
      case MPCIFC.unregisterTranslation:
        return this.#translation(one, word, true, false);
      case MPCIFC.reregisterTranslation:
        return this.#translation(one, word, true, true);
      case MPCIFC.resetError:
        return this.#resetError(one);
      case MPCIFC.resetBlock:
        if (one.state !== STATE.error) return STATUS.sequence;
        this.#functions.enter(one, STATE.blocked);
        return 0;
      case MPCIFC.setMeasurement:
        return this.#measurement.set(one, this.#fib.getBigUint64(FIB.FMB)) ? 0 : NO_STATUS;
      default:
        return INTERRUPTION.operand;
    }
  }

  /** A host that cannot follow leaves the function unregistered: no room. The rest of what the tables hold is taken over at once. */
  #translation(one: ZpciFunction, word: InstructionWord, isRegistered: boolean, registers: boolean): number {
    if (word.dmaAddressSpace !== 0) return STATUS.dmaAddressSpace;
    if ((one.registration !== null) !== isRegistered) return STATUS.sequence;
    const registration = registers ? this.#registration() : null;
    if (registration !== null && !this.#functions.allows(one, registration)) return INTERRUPTION.operand;
    const result = this.#functions.register(one, registration);
    return registers && result < 0 ? STATUS.insufficient : 0;
  }

  /** PBA and PAL are whole pages, whatever their low bits say. */
  #registration(): Registration {
    return {
      pba: this.#fib.getBigUint64(FIB.PBA) & ~PAGE_MASK,
      pal: this.#fib.getBigUint64(FIB.PAL) | PAGE_MASK,
      iota: this.#fib.getBigUint64(FIB.IOTA),
    };
  }

  /** A host that cannot follow leaves the function where it was. */
  #resetError(one: ZpciFunction): number {
    const { state } = one;
    if (state === STATE.enabled) return STATUS.sequence;
    if (this.#functions.enter(one, STATE.enabled) >= 0) return 0;
    this.#functions.enter(one, state);
    return STATUS.insufficient;
  }

  #registerInterrupts(one: ZpciFunction): number {
    if (one.indicators !== null) return STATUS.sequence;
    const words = Int32Array.of(this.#fib.getInt32(FIB.INTERRUPTS));
    const indicators: Indicators = {
      isc: get(words, FIB_INTERRUPTS.ISC),
      interrupts: get(words, FIB_INTERRUPTS.NOI),
      summary: get(words, FIB_INTERRUPTS.SUM),
      vector: this.#fib.getBigUint64(FIB.AIBV),
      vectorBit: get(words, FIB_INTERRUPTS.AIBVO),
      summaryAddress: this.#fib.getBigUint64(FIB.AISB),
      summaryBit: get(words, FIB_INTERRUPTS.AISBO),
    };
    if (!this.#interrupts.allows(indicators)) return STATUS.resource;
    one.indicators = indicators;
    return 0;
  }

  /** Stores the FIB of whichever function the handle belongs to, disabled ones too. */
  store(registers: GeneralRegisters, r1: number, address: bigint): Answer {
    const word = new InstructionWord(registers, r1);
    if (word.dmaAddressSpace !== 0) {
      word.status(STATUS.dmaAddressSpace);
      return CC.error;
    }
    if ((address & 7n) !== 0n) return INTERRUPTION.specification;
    const one = this.#functions.byIndex(word.handle);
    const isOf = one !== null && (word.handle === one.handle || (one.isEnabled && word.handle === one.handleBase));
    if (!isOf || one.state === STATE.standby) return CC.handle;
    this.#bytes.fill(0);
    if (one.isEnabled) this.#describe(one);
    if (this.#functions.memory.write(hiOf(address), loOf(address), this.#bytes, 0, FIB_BYTES) < 0) return INTERRUPTION.addressing;
    if (one.isEnabled) word.handle = one.handle;
    return CC.done;
  }

  #describe(one: ZpciFunction): void {
    const { registration, indicators, state } = one;
    const fib = this.#fib;
    const failed = state === STATE.error || state === STATE.blocked ? FIB_FC.error : 0;
    const blocked = state === STATE.error ? FIB_FC.loadStoreBlocked : 0;
    fib.setUint8(FIB.CONTROLS, FIB_FC.enabled | failed | blocked | (registration === null ? 0 : FIB_FC.translation));
    if (registration !== null) {
      fib.setBigUint64(FIB.PBA, registration.pba);
      fib.setBigUint64(FIB.PAL, registration.pal);
      fib.setBigUint64(FIB.IOTA, registration.iota);
    }
    if (indicators !== null) {
      const words = new Int32Array(1);
      put(words, FIB_INTERRUPTS.ISC, indicators.isc);
      put(words, FIB_INTERRUPTS.NOI, indicators.interrupts);
      put(words, FIB_INTERRUPTS.AIBVO, indicators.vectorBit);
      put(words, FIB_INTERRUPTS.SUM, indicators.summary);
      put(words, FIB_INTERRUPTS.AISBO, indicators.summaryBit);
      fib.setInt32(FIB.INTERRUPTS, words[0]);
      fib.setBigUint64(FIB.AIBV, indicators.vector);
      fib.setBigUint64(FIB.AISB, indicators.summaryAddress);
    }
    fib.setBigUint64(FIB.FMB, one.measurement);
  }
}
