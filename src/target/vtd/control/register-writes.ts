import { MAMV } from '../capabilities.ts';
import type { VtdChoices } from '../options.ts';
import type { Event } from '../reporting/event.ts';
import type { FaultLog } from '../reporting/fault-log.ts';
import { Granularity } from '../spec/descriptors.ts';
import { FRCD_BYTES } from '../spec/fault-record.ts';
import {
  CCMD,
  ContextCommand,
  FECTL,
  FSTS,
  GCMD,
  Global,
  GSTS,
  ICS,
  ICS_IWC,
  IECTL,
  IOTLB,
  IotlbCommand,
  IQH,
  IRTA,
  IVA,
  PageRequestStatus,
  PECTL,
  PMEN,
  PRS,
  RTADDR,
} from '../spec/registers.ts';
import type { VtdSurroundings } from '../surroundings.ts';
import type { Invalidations } from './invalidations.ts';
import { keptBits } from './register-bits.ts';
import type { Registers } from './registers.ts';

export interface WriteParts {
  readonly registers: Registers;
  readonly invalidations: Invalidations;
  readonly faults: FaultLog;
  readonly faultEvent: Event;
  readonly completionEvent: Event;
  readonly pageRequestEvent: Event;
  /** Follows the registers of protected memory. */
  readonly protect: () => void;
  readonly surroundings: VtdSurroundings;
  readonly choices: VtdChoices;
  /** Offset of the first fault record. */
  readonly records: number;
}

/** What a write of a 32-bit word does (11.4); of a register of 64 bits the lower word comes first (11.2). */
export class RegisterWrites {
  readonly #parts: WriteParts;
  /** Bits that are kept as they are written, by offset; of what is not here, and does nothing below, none. */
  readonly #kept: ReadonlyMap<number, number>;

  constructor(parts: WriteParts) {
    this.#parts = parts;
    this.#kept = keptBits(parts.choices);
  }

  write(offset: number, value: number): void {
    const { registers, faults, faultEvent, completionEvent, pageRequestEvent, choices, records } = this.#parts;
    const kept = this.#kept.get(offset);
    if (kept !== undefined) registers.change(offset, kept, value & kept);
    switch (offset) {
      case PMEN:
        if (choices.protectedMemory) this.#parts.protect();
        return;
      case GCMD:
        this.#globalCommand(value);
        return;
      case CCMD + 4:
        if ((value & ContextCommand.ICC) !== 0) this.#contextCommand(value);
        return;
      case IOTLB + 4:
        if ((value & IotlbCommand.IVT) !== 0) this.#iotlbCommand(value);
        return;
      case FSTS:
        faults.writeStatus(value);
        return;
      case FECTL:
        faultEvent.writeControl(value);
        return;
      case IECTL:
        completionEvent.writeControl(value);
        return;
      case ICS:
        registers.change(ICS, value & ICS_IWC, 0);
        if (registers.get(ICS) === 0) completionEvent.settle();
        return;
      case PECTL:
        if (choices.pageRequests) pageRequestEvent.writeControl(value);
        return;
      case PRS:
        registers.change(PRS, value & (PageRequestStatus.PPR | PageRequestStatus.PRO), 0);
        if (registers.get(PRS) === 0) pageRequestEvent.settle();
        return;
    }
    if (offset >= records && offset < records + choices.faultRecords * FRCD_BYTES && (offset & 12) === 12)
      faults.writeRecord(offset, value);
  }

  /** 11.4.4.1: pointers take effect before what they are for is turned on. */
  #globalCommand(value: number): void {
    const { registers, choices } = this.#parts;
    if ((value & Global.SRTP) !== 0) this.#setRootTable();
    if ((value & Global.SIRTP) !== 0 && choices.interruptRemapping) this.#setInterruptTable();
    const changed = value ^ registers.get(GSTS);
    if ((changed & Global.QIE) !== 0) this.#enableQueue((value & Global.QIE) !== 0);
    if ((changed & Global.TE) !== 0) this.#enableTranslation((value & Global.TE) !== 0);
    if (!choices.interruptRemapping) return;
    if ((changed & (Global.IRE | Global.CFI)) !== 0) {
      registers.change(GSTS, Global.IRE | Global.CFI, value & (Global.IRE | Global.CFI));
      this.#parts.faults.statusChanged();
      this.#parts.surroundings.interruptsChanged?.(0, 0xffff);
    }
  }

  /** 6.6, with ESRTPS. */
  #setRootTable(): void {
    const { registers } = this.#parts;
    registers.root[0] = registers.get(RTADDR);
    registers.root[1] = registers.get(RTADDR + 4);
    registers.change(GSTS, 0, Global.SRTP);
    this.#forgetTranslations();
  }

  /** 6.7, with ESIRTPS. */
  #setInterruptTable(): void {
    const { registers, surroundings } = this.#parts;
    registers.interruptTable[0] = registers.get(IRTA);
    registers.interruptTable[1] = registers.get(IRTA + 4);
    registers.change(GSTS, 0, Global.SIRTP);
    surroundings.interruptsChanged?.(0, 0xffff);
  }

  /** 6.5.2: the head begins at 0 again. What is in the queue is run by whoever wrote. */
  #enableQueue(on: boolean): void {
    const { registers } = this.#parts;
    registers.change(GSTS, Global.QIE, on ? Global.QIE : 0);
    if (!on) registers.set(IQH, 0);
  }

  #enableTranslation(on: boolean): void {
    const { registers, faults } = this.#parts;
    registers.change(GSTS, Global.TE, on ? Global.TE : 0);
    faults.statusChanged();
    this.#forgetTranslations();
  }

  #forgetTranslations(): void {
    const { invalidations } = this.#parts;
    invalidations.everyContext();
    invalidations.everyTranslation();
  }

  /** 11.4.6.1. Of a domain everything is forgotten, and CAIG says so. */
  #contextCommand(value: number): void {
    const { registers, invalidations } = this.#parts;
    const granularity = (value >>> ContextCommand.CIRG_SHIFT) & 3;
    let actual = 0;
    if (registers.isLegacy && granularity === Granularity.selective) {
      invalidations.contextsOf(registers.get(CCMD) >>> 16, value & ContextCommand.FM);
      actual = Granularity.selective;
    } else if (registers.isLegacy && granularity !== 0) {
      invalidations.everyContext();
      actual = Granularity.global;
    }
    registers.change(CCMD + 4, ContextCommand.ICC | ContextCommand.CAIG, actual << ContextCommand.CAIG_SHIFT);
  }

  /** 11.4.6.3 */
  #iotlbCommand(value: number): void {
    const { registers, invalidations } = this.#parts;
    const granularity = (value >>> IotlbCommand.IIRG_SHIFT) & 3;
    const domain = value & IotlbCommand.DID;
    const mask = registers.get(IVA) & IotlbCommand.AM;
    let actual = registers.isLegacy ? granularity : 0;
    if (actual === Granularity.selective && mask > MAMV) actual = 0;
    if (actual === Granularity.global) invalidations.everyTranslation();
    else if (actual === Granularity.domain) invalidations.domain(domain);
    else if (actual === Granularity.selective) invalidations.pages(domain, registers.get(IVA + 4), registers.get(IVA), mask);
    registers.change(IOTLB + 4, IotlbCommand.IVT | IotlbCommand.IAIG, actual << IotlbCommand.IAIG_SHIFT);
  }
}
