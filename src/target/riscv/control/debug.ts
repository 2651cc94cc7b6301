import { EXECUTE, PRIVILEGED, READ, WRITE } from '../../../memory/access.ts';
import { join } from '../../../memory/address.ts';
import { get, isSet, put, putWide, reservedMask } from '../../fields.ts';
import { NO_PASID } from '../../target.ts';
import { TR_REQ_CTL_FIELDS as REQUEST, TR_RESPONSE_FIELDS as RESPONSE, TR_REQ_CTL, TR_REQ_IOVA, TR_RESPONSE } from '../spec/registers.ts';
import { encodeRange } from '../translation/ats.ts';
import type { Translator } from '../translation/translator.ts';
import type { Registers } from './registers.ts';

const RESERVED = reservedMask(1, Object.values(REQUEST));
/** A register of 64 bits: its two words. */
const HALVES = 2;

/** "Debug support": software asks for a translation through registers; it is done when the write returns. */
export class DebugTranslation {
  readonly #registers: Registers;
  readonly #translator: Translator;
  readonly #request = new Int32Array(HALVES);

  constructor(registers: Registers, translator: Translator) {
    this.#registers = registers;
    this.#translator = translator;
  }

  writeIova(hi: number, lo: number): void {
    this.#registers.set(TR_REQ_IOVA, lo & ~0xfff);
    this.#registers.set(TR_REQ_IOVA + 4, hi);
  }

  writeControl(hi: number, lo: number): void {
    const request = this.#request;
    request[0] = lo & ~RESERVED[0];
    request[1] = hi & ~RESERVED[1];
    const go = isSet(request, REQUEST.GO_BUSY);
    put(request, REQUEST.GO_BUSY, 0);
    this.#registers.words.set(request, TR_REQ_CTL >>> 2);
    if (go) this.#translate(request);
  }

  #translate(request: Int32Array): void {
    const registers = this.#registers;
    const wanted = !isSet(request, REQUEST.NW) ? WRITE : isSet(request, REQUEST.EXE) ? EXECUTE : READ;
    const access = wanted | (isSet(request, REQUEST.PRIV) ? PRIVILEGED : 0);
    const process = isSet(request, REQUEST.PV) ? get(request, REQUEST.PID) : NO_PASID;
    const device = get(request, REQUEST.DID);
    const lg2 = this.#translator.debug(device, process, registers.get(TR_REQ_IOVA + 4), registers.get(TR_REQ_IOVA), access);
    const response = new Int32Array(HALVES);
    if (lg2 < 0) {
      put(response, RESPONSE.FAULT, 1);
    } else {
      const { translated, answer } = this.#translator;
      put(response, RESPONSE.PBMT, answer.pbmt);
      put(response, RESPONSE.S, lg2 > 12 ? 1 : 0);
      putWide(response, RESPONSE.PPN, Number(encodeRange(join(translated), lg2) & (2n ** BigInt(RESPONSE.PPN.width) - 1n)));
    }
    registers.words.set(response, TR_RESPONSE >>> 2);
  }
}
