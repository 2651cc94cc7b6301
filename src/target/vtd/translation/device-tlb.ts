import { PRIVILEGED, READ, READ_WRITE, WRITE } from '../../../memory/access.ts';
import { hiOf, joinHiLo, loOf, pfnOfHiLo } from '../../../memory/address.ts';
import { OUT_HI, OUT_LO } from '../../../pagetable/page-table.ts';
import { NO_PASID } from '../../target.ts';
import type { ProtectedMemory } from '../control/protected-memory.ts';
import type { Registers } from '../control/registers.ts';
import { type FaultedRequest, type FaultLog, RequestType } from '../reporting/fault-log.ts';
import { ATS_EMPTY, ATS_UNSUPPORTED, Fault, PROTECTED } from '../spec/faults.ts';
import type { Contexts } from './contexts.ts';
import type { Stages } from './stages.ts';
import { isInterrupt, type Translator, type TranslatorParts, typeOf } from './translator.ts';

/** A translation request of a device (PCIe ATS). */
export interface TranslationRequest {
  readonly device: number;
  /** null: without PASID. */
  readonly pasid: number | null;
  readonly address: bigint;
  readonly privileged?: boolean;
}

/** Its completion: Unsupported Request, Completer Abort, or what the tables grant, which may be nothing. */
export type TranslationCompletion =
  | { readonly status: 'unsupported' | 'abort' }
  | {
      readonly status: 'success';
      readonly address: bigint;
      /** lg2 of the bytes around the address. */
      readonly lg2: number;
      readonly read: boolean;
      readonly write: boolean;
      /** U: the device may use the address for untranslated requests only. */
      readonly untranslated: boolean;
    };

/** Reasons after which less may be granted. */
const LACKS_PERMISSION: ReadonlySet<number> = new Set([Fault['LGN.2'], Fault['LGN.3'], Fault['SGN.6'], Fault['SGN.7']]);

/** Address types of a fault record. */
const TRANSLATION = 1;
const TRANSLATED = 2;

/** Translation requests and translated requests (4.1, table 30). */
export class DeviceTlb {
  readonly #registers: Registers;
  readonly #contexts: Contexts;
  readonly #translator: Translator;
  readonly #faults: FaultLog;
  readonly #addressWidth: number;
  readonly #protected: ProtectedMemory;

  constructor({ registers, contexts, faults, addressWidth, protectedMemory }: TranslatorParts, translator: Translator) {
    this.#protected = protectedMemory;
    this.#registers = registers;
    this.#contexts = contexts;
    this.#translator = translator;
    this.#faults = faults;
    this.#addressWidth = addressWidth;
  }

  /** Completes a translation request. */
  request({ device, pasid, address, privileged = false }: TranslationRequest): TranslationCompletion {
    const process = pasid ?? NO_PASID;
    const hi = hiOf(address);
    const lo = loOf(address);
    // Without translation nothing is translated for a device either (4.1).
    if (!this.#registers.translating) return { status: 'unsupported' };
    // S.1: so that messages of a device that asks for everything go out as they are.
    if (process === NO_PASID && isInterrupt(hi, lo))
      return { status: 'success', address, lg2: 12, read: false, write: true, untranslated: true };
    const asked = {
      device,
      pasid: process,
      hi,
      lo,
      type: RequestType.read,
      privileged,
      execute: false,
      addressType: TRANSLATION,
    };
    const stages = this.#contexts.find(device, process);
    if (stages === null) return this.#refuse(this.#contexts.reason, this.#contexts.suppressed, asked);
    const reason = stages.deviceTlb ? 0 : stages.legacy ? Fault['LCT.5'] : Fault['SCT.5'];
    return reason === 0 ? this.#translate(stages, asked) : this.#refuse(reason, stages.suppressed, asked);
  }

  /** As much as is granted: writing, which marks pages dirty, before reading. */
  #translate(stages: Stages, asked: FaultedRequest): TranslationCompletion {
    const { translated } = this.#translator;
    let reason = 0;
    for (const access of [READ_WRITE, READ, WRITE]) {
      const wish = asked.privileged ? access | PRIVILEGED : access;
      const lg2 = this.#translator.walk(stages, asked.pasid, asked.hi, asked.lo, wish);
      if (lg2 >= 0) {
        return {
          status: 'success',
          address: joinHiLo(translated[OUT_HI], translated[OUT_LO]),
          lg2,
          read: (access & READ) !== 0,
          write: (access & WRITE) !== 0,
          untranslated: false,
        };
      }
      reason = -lg2;
      if (!LACKS_PERMISSION.has(reason)) break;
    }
    return this.#refuse(reason, stages.suppressed, asked);
  }

  /** What a device does with an address that it was told: 0, or the negative reason of a fault. */
  translatedRequest(device: number, address: bigint, access: number, pasid: number): number {
    // Nobody was told an address while translation was off, and nothing is checked (4.2.3).
    if (!this.#registers.translating) return 0;
    const hi = hiOf(address);
    const lo = loOf(address);
    const stages = this.#contexts.find(device, NO_PASID);
    const withPasid = pasid !== NO_PASID;
    let reason = 0;
    if (withPasid && this.#registers.isLegacy) reason = Fault['RTA.2'];
    else if (stages === null) ({ reason } = this.#contexts);
    else if (!stages.deviceTlb) reason = stages.legacy ? Fault['LCT.5'] : Fault['SCT.5'];
    // EPTR, which would let them, is reserved without ECAP.PTRS.
    else if (withPasid) reason = Fault['SCT.10'];
    else if (hi >>> (this.#addressWidth - 32) !== 0) reason = stages.legacy ? Fault['LGN.1'] : Fault['SGN.4'];
    else if (isInterrupt(hi, lo)) reason = stages.legacy ? Fault['LGN.4'] : Fault['SGN.8'];
    // 11.4.8.1: translated requests do not reach protected memory either.
    if (reason === 0) return this.#protected.holds(pfnOfHiLo(hi, lo)) ? -PROTECTED : 0;
    const asked = { device, pasid, hi, lo, type: typeOf(access), privileged: false, execute: false, addressType: TRANSLATED };
    this.#faults.record(reason, stages?.suppressed ?? this.#contexts.suppressed, asked);
    return -reason;
  }

  #refuse(reason: number, suppressed: boolean, asked: FaultedRequest): TranslationCompletion {
    const { hi, lo } = asked;
    if (ATS_EMPTY.has(reason) || reason === PROTECTED)
      return { status: 'success', address: joinHiLo(hi, lo), lg2: 12, read: false, write: false, untranslated: false };
    this.#faults.record(reason, suppressed, asked);
    return { status: ATS_UNSUPPORTED.has(reason) ? 'unsupported' : 'abort' };
  }
}
