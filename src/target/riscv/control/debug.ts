import { EXECUTE, PRIVILEGED, READ, WRITE } from '../../../memory/access.ts';
import { hiOf, joinHiLo, loOf } from '../../../memory/address.ts';
import { NO_PASID } from '../../target.ts';
import { encodeRange } from '../translation/ats.ts';
import type { Translator } from '../translation/translator.ts';
import { type Registers, TR_REQ_CTL, TR_REQ_IOVA, TR_RESPONSE } from './registers.ts';

/** "Translation-request control": low half; PID 31:12, PV 32, DID 63:40. */
const Control = { go: 1, priv: 1 << 1, exe: 1 << 2, nw: 1 << 3, reserved: 0xff << 4 } as const;
const RESERVED_HI = 0xfe;

/** "Debug support": software asks for a translation through registers; it is done when the write returns. */
export class DebugTranslation {
  readonly #registers: Registers;
  readonly #translator: Translator;

  constructor(registers: Registers, translator: Translator) {
    this.#registers = registers;
    this.#translator = translator;
  }

  writeIova(hi: number, lo: number): void {
    if (this.#registers.has(TR_REQ_CTL, Control.go)) return;
    this.#registers.set(TR_REQ_IOVA, lo & ~0xfff);
    this.#registers.set(TR_REQ_IOVA + 4, hi);
  }

  writeControl(hi: number, lo: number): void {
    const registers = this.#registers;
    if (registers.has(TR_REQ_CTL, Control.go)) return;
    const low = lo & ~Control.reserved;
    registers.set(TR_REQ_CTL, low & ~Control.go);
    registers.set(TR_REQ_CTL + 4, hi & ~RESERVED_HI);
    if ((low & Control.go) !== 0) this.#translate(hi, low);
  }

  #translate(hi: number, lo: number): void {
    const registers = this.#registers;
    const wanted = (lo & Control.nw) === 0 ? WRITE : (lo & Control.exe) !== 0 ? EXECUTE : READ;
    const access = wanted | ((lo & Control.priv) !== 0 ? PRIVILEGED : 0);
    const process = (hi & 1) !== 0 ? lo >>> 12 : NO_PASID;
    const lg2 = this.#translator.debug(hi >>> 8, process, registers.get(TR_REQ_IOVA + 4), registers.get(TR_REQ_IOVA), access);
    // "Translation-response": fault 0, PBMT 8:7, S 9, PPN 53:10.
    let response = 1n;
    if (lg2 >= 0) {
      const { translated, answer } = this.#translator;
      const page = encodeRange(joinHiLo(translated[1], translated[0]), lg2) & (2n ** 44n - 1n);
      response = (BigInt(answer.pbmt) << 7n) | (lg2 > 12 ? 1n << 9n : 0n) | (page << 10n);
    }
    registers.set(TR_RESPONSE, loOf(response));
    registers.set(TR_RESPONSE + 4, hiOf(response));
  }
}
