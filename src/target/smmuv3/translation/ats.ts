import { EXECUTE, PRIVILEGED, READ, READ_WRITE, WRITE } from '../../../memory/access.ts';
import { OUT_HI, OUT_LO, OUT_PERMISSION } from '../../../pagetable/page-table.ts';
import { targetFault } from '../../fault-codes.ts';
import { smallestGranule } from '../capabilities.ts';
import type { Registers } from '../control/registers.ts';
import { type Events, type Fault, isTranslationFault, type Request } from '../reporting/events.ts';
import type { Refusals } from '../reporting/refusals.ts';
import { EVENT } from '../spec/events.ts';
import { FAULT_ABORT } from '../spec/faults.ts';
import { CR0, CR2 } from '../spec/registers.ts';
import { EATS } from '../spec/ste.ts';
import type { TranslationCompletion } from '../surroundings.ts';
import { type Route, VERDICT } from './route.ts';
import { StreamEntry } from './stream-entry.ts';
import type { Translator } from './translator.ts';
import { BOTH, STAGE_1, STAGE_2 } from './walks.ts';

const RWX = READ_WRITE | EXECUTE;
const UNSUPPORTED: TranslationCompletion = { status: 'unsupported-request' };
const ABORTED: TranslationCompletion = { status: 'completer-abort' };

/** Translation requests and translated requests of PCIe ATS, 3.9.1. */
export class Ats {
  readonly #registers: Registers;
  readonly #translator: Translator;
  readonly #events: Events;
  readonly #refusals: Refusals;
  /** lg2 of the smallest translation unit: the smallest granule (3.9.1). */
  readonly #unit: number;
  readonly #noAccess: TranslationCompletion;

  constructor(registers: Registers, translator: Translator, events: Events, refusals: Refusals) {
    this.#registers = registers;
    this.#unit = smallestGranule(registers.features);
    this.#noAccess = { status: 'success', lg2: this.#unit, address: 0n, permission: 0 };
    this.#translator = translator;
    this.#events = events;
    this.#refusals = refusals;
  }

  /** 3.9.1.2. `access`: READ, WRITE unless the device wants to read alone (NW), EXECUTE, PRIVILEGED. */
  request(asked: Request): TranslationCompletion {
    const { stream, substream } = asked;
    // 13.7: reading is implied, and without a PASID a request is unprivileged, for data.
    const access = READ | (asked.access & (substream < 0 ? WRITE : RWX | PRIVILEGED));
    const request = { ...asked, access };
    const { configurations } = this.#translator;
    if (this.#registers.features.ATS === 0) return UNSUPPORTED;
    if (!this.#registers.isOn) return this.#forbid(request);
    const entry = configurations.entry(stream);
    if (!(entry instanceof StreamEntry)) return this.#abort(entry, request);
    if (!entry.passes) return UNSUPPORTED;
    const eats = entry.eats(this.#registers.cr0(CR0.ATSCHK) !== 0);
    if (eats === EATS.off) return this.#forbid(request);
    const route = configurations.route(stream, substream);
    if (route.fault !== null) return this.#refuse(route.fault, request);
    const { hi, lo } = request;
    // 13.6.4: what skips the only stage is translated to itself.
    if (route.verdict !== VERDICT.translate)
      return (hi & route.beyond) !== 0
        ? this.#noAccess
        : { status: 'success', lg2: this.#unit, address: addressOf(hi, lo), permission: READ_WRITE };
    return this.#walk(route, request, eats === EATS.split ? STAGE_1 : BOTH);
  }

  #walk(route: Route, request: Request, answered: number): TranslationCompletion {
    const { hi, lo, access } = request;
    const { walks } = this.#translator;
    const privilege = route.wishes[access] & PRIVILEGED;
    // What stage 1 grants nothing of is not translated at stage 2, whose faults nobody sees.
    if (route.context !== null) {
      if (walks.walk(route, hi, lo, privilege, STAGE_1) < 0) return this.#refuse(walks.fault, request);
      if (grantedOf(walks.out[OUT_PERMISSION], access, route) === 0) return this.#noAccess;
    }
    // What is granted, not whether all that was asked for is (3.9.1.2, F_PERMISSION).
    let lg2 = walks.walk(route, hi, lo, privilege);
    if (lg2 < 0) return this.#refuse(walks.fault, request);
    const permission = grantedOf(walks.out[OUT_PERMISSION], access, route);
    if (permission === 0) return this.#noAccess;
    // The request is the only time to mark the page dirty (3.13.7).
    if ((permission & WRITE) !== 0) lg2 = walks.walk(route, hi, lo, privilege | WRITE);
    if (lg2 < 0) return this.#refuse(walks.fault, request);
    const stage1 = answered === STAGE_1 ? walks.walk(route, hi, lo, privilege, STAGE_1) : lg2;
    if (stage1 < 0) return this.#refuse(walks.fault, request);
    return { status: 'success', lg2, address: addressOf(walks.out[OUT_HI], walks.out[OUT_LO]), permission };
  }

  #forbid(request: Request): TranslationCompletion {
    this.#events.record({ number: EVENT.F_BAD_ATS_TREQ }, request);
    return UNSUPPORTED;
  }

  #refuse(fault: Fault, request: Request): TranslationCompletion {
    return isTranslationFault(fault.number) ? this.#noAccess : this.#abort(fault, request);
  }

  #abort(fault: Fault, request: Request): TranslationCompletion {
    if (this.#registers.cr2(CR2.REC_CFG_ATS)) this.#refusals.configuration(fault, request);
    return ABORTED;
  }

  /** A request whose address is translated already (3.9.1.3): answers as `Translator.translate` does. */
  translated(request: Request): number {
    const { stream, hi, lo, access } = request;
    if (!this.#registers.isOn) return this.#forbidTranslated(request);
    if (this.#registers.cr0(CR0.ATSCHK) === 0) return this.#pass(hi, lo);
    const entry = this.#translator.configurations.entry(stream);
    if (!(entry instanceof StreamEntry)) {
      if (this.#registers.cr2(CR2.REC_CFG_ATS)) this.#events.record(entry, request);
      return FAULT_ABORT;
    }
    if (!entry.passes) return FAULT_ABORT;
    const eats = entry.eats(true);
    if (eats === EATS.off) return this.#forbidTranslated(request);
    if (eats === EATS.full) return this.#pass(hi, lo);
    // 13.6.3: an IPA, which stage 2 translates; without IDR3.PASIDTT for data, unprivileged (3.9.1.3).
    const route = this.#translator.configurations.stage2Route(entry);
    const { walks, translated } = this.#translator;
    const wish = entry.wishes[access & READ_WRITE || READ];
    const lg2 = walks.walk(route, hi, lo, wish, STAGE_2);
    if (lg2 < 0) return this.#refusals.refuse(walks.fault, route, { ...request, access: wish });
    translated[0] = walks.out[OUT_LO];
    translated[1] = walks.out[OUT_HI];
    return lg2;
  }

  /** What is wider than OAS is aborted (3.9.1.1). */
  #pass(hi: number, lo: number): number {
    if (hi >>> (this.#registers.outputBits - 32) !== 0) return FAULT_ABORT;
    this.#translator.translated[0] = lo;
    this.#translator.translated[1] = hi;
    return 12;
  }

  #forbidTranslated(request: Request): number {
    this.#events.record({ number: EVENT.F_TRANSL_FORBIDDEN }, request);
    return targetFault('smmuv3', EVENT.F_TRANSL_FORBIDDEN);
  }
}

/**
 * What a completion grants of `permission` to a request (13.7.1). What reading and executing need follows INSTCFG, writing never does;
 * execution goes with reading, which PCIe has no way to leave out.
 */
function grantedOf(permission: number, access: number, { wishes }: Route): number {
  const allows = (kind: number) => (wishes[kind] & RWX & ~permission) === 0;
  const read = allows(READ) ? READ : 0;
  const execute = read !== 0 && allows(EXECUTE) ? access & EXECUTE : 0;
  return read | execute | (permission & access & WRITE);
}

function addressOf(hi: number, lo: number): bigint {
  return (BigInt(hi >>> 0) << 32n) | BigInt(lo >>> 0);
}
