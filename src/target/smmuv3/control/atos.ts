import { EXECUTE, PRIVILEGED, READ, WRITE } from '../../../memory/access.ts';
import { pfnOfHiLo } from '../../../memory/address.ts';
import { OUT_HI, OUT_LO } from '../../../pagetable/page-table.ts';
import { get, isSet, put, putWide } from '../../fields.ts';
import { smallestGranule } from '../capabilities.ts';
import { type Fault, isTranslationFault } from '../reporting/events.ts';
import { CLASS, EVENT } from '../spec/events.ts';
import { GATOS_ADDR, GATOS_CTRL, GATOS_PAR, GATOS_SID, REG, VATOS_SEL } from '../spec/registers.ts';
import { type Route, VERDICT } from '../translation/route.ts';
import { StreamEntry } from '../translation/stream-entry.ts';
import type { Translator } from '../translation/translator.ts';
import { BOTH, STAGE_1, STAGE_2 } from '../translation/walks.ts';
import type { Registers } from './registers.ts';

/** 9.1.5. */
const INV_REQ = 0xff;
const INV_STAGE = 0xfe;
/** Normal memory, write-back, inner shareable: what the model has of every page (13.1.5). */
const WRITE_BACK = 0xff;
const INNER_SHAREABLE = 3;

/** An interface's registers; GATOS and VATOS have the same ones. */
const SID = REG.GATOS_SID - REG.GATOS_CTRL;
const ADDR = REG.GATOS_ADDR - REG.GATOS_CTRL;
const PAR = REG.GATOS_PAR - REG.GATOS_CTRL;

/** Address translation operations, chapter 9: a look-up as though a request had come, which records nothing. */
export class Atos {
  readonly #registers: Registers;
  readonly #translator: Translator;

  constructor(registers: Registers, translator: Translator) {
    this.#registers = registers;
    this.#translator = translator;
  }

  /** GATOS_CTRL or VATOS_CTRL was written: with RUN, and the SMMU on, the answer is in its PAR at once. */
  run(control: number, value: number): void {
    const { ATOS, VATOS } = this.#registers.features;
    const isThere = (control === REG.VATOS_CTRL ? VATOS : ATOS) === 1;
    if (!isThere || (value & GATOS_CTRL.RUN.mask) === 0 || !this.#registers.isOn) return;
    const par = this.#registers.view(control + PAR).fill(0);
    this.#look(control, par);
  }

  #look(control: number, par: Int32Array): void {
    const registers = this.#registers;
    const { S1P, S2P } = registers.features;
    const isVirtual = control === REG.VATOS_CTRL;
    const address = registers.view(control + ADDR);
    const sid = registers.view(control + SID);
    const type = get(address, GATOS_ADDR.TYPE);
    const wantsS1 = (type & STAGE_1) !== 0;
    const wantsS2 = (type & STAGE_2) !== 0;
    // 9.1.3: stage 2 alone knows no substreams.
    const isLost = type === STAGE_2 && isSet(sid, GATOS_SID.SSID_VALID);
    if (type === 0 || isLost || (isVirtual && type !== STAGE_1) || (wantsS1 && S1P === 0) || (wantsS2 && S2P === 0)) {
      refuse(par, INV_REQ);
      return;
    }
    const stream = get(sid, GATOS_SID.STREAM) >>> 0;
    const { configurations, walks } = this.#translator;
    const entry = configurations.entry(stream);
    if (!(entry instanceof StreamEntry)) {
      refuse(par, entry.number);
      return;
    }
    // 9.1.6: a virtual machine sees its own streams alone.
    const vmid = get(registers.view(REG.VATOS_SEL), VATOS_SEL.VMID);
    if (isVirtual && (!entry.passes || entry.bypasses || entry.world !== vmid)) {
      refuse(par, EVENT.C_BAD_STE);
      return;
    }
    if (!entry.passes || (wantsS1 && !entry.s1) || (wantsS2 && !entry.s2)) {
      refuse(par, INV_STAGE);
      return;
    }
    const hi = address[1];
    const lo = address[0] & ~0xfff;
    const isPassive = isSet(address, GATOS_ADDR.HTTUI);
    const route = wantsS1 ? this.#route(entry, sid, isPassive) : configurations.stage2Route(entry);
    if (route.fault !== null) {
      refuseFault(par, route.fault, type);
      return;
    }
    const wish = wishOf(address);
    // S1DSS may skip stage 1 (9.1.3): then the answer is as large as the smallest granule.
    const least = smallestGranule(registers.features);
    const lg2 = route.verdict === VERDICT.translate ? walks.walk(isPassive ? walks.passive(route) : route, hi, lo, wish, type) : least;
    if (lg2 < 0) refuseFault(par, walks.fault, type);
    else if (route.verdict === VERDICT.translate) answer(par, Math.max(lg2, least), walks.out[OUT_HI], walks.out[OUT_LO]);
    else if ((hi & route.beyond) !== 0) refuse(par, EVENT.F_ADDR_SIZE);
    else answer(par, least, hi, lo);
  }

  #route(entry: StreamEntry, sid: Int32Array, isPassive: boolean): Route {
    const { configurations } = this.#translator;
    const substream = isSet(sid, GATOS_SID.SSID_VALID) ? get(sid, GATOS_SID.SUBSTREAM) : -1;
    return isPassive ? configurations.passiveRoute(entry, substream) : configurations.route(entry.stream, substream);
  }
}

/** The overrides of the stream table entry do not count (chapter 9). */
function wishOf(address: Int32Array): number {
  const reads = isSet(address, GATOS_ADDR.RNW);
  const data = reads ? (isSet(address, GATOS_ADDR.IND) ? EXECUTE : READ) : WRITE;
  return data | (isSet(address, GATOS_ADDR.PNU) ? PRIVILEGED : 0);
}

/** 6.3.40: the size is where ADDR's lowest bit is that is set. */
function answer(par: Int32Array, lg2: number, hi: number, lo: number): void {
  const pages = 2 ** (lg2 - 12);
  const page = pfnOfHiLo(hi, lo);
  putWide(par, GATOS_PAR.ADDR, page - (page % pages) + (pages > 1 ? pages / 2 : 0));
  put(par, GATOS_PAR.SIZE, Number(pages > 1));
  put(par, GATOS_PAR.SH, INNER_SHAREABLE);
  put(par, GATOS_PAR.ATTR, WRITE_BACK);
}

function refuse(par: Int32Array, code: number): void {
  put(par, GATOS_PAR.FAULT, 1);
  put(par, GATOS_PAR.FAULTCODE, code);
}

/**
 * 9.1.4. Behind a request for stage 1 alone, what stage 2 refuses is an abort of the fetch; an address is told where both stages were asked for,
 * and a translation was refused.
 */
function refuseFault(par: Int32Array, { number, s2 = false, on = CLASS.IN, address = 0 }: Fault, type: number): void {
  if (s2 && type === STAGE_1) {
    refuse(par, on === CLASS.CD ? EVENT.F_CD_FETCH : EVENT.F_WALK_EABT);
    return;
  }
  refuse(par, number);
  if (!s2) return;
  put(par, GATOS_PAR.REASON, on + 1);
  if (type === BOTH && isTranslationFault(number)) putWide(par, { low: GATOS_PAR.ADDR.low, width: 44 }, Math.floor(address / 4096));
}
