import { PAGE_LG2, pfnOfHiLo } from '../../../memory/address.ts';
import { AHEAD } from '../../../memory/ahead.ts';
import type { Iotlb } from '../../../memory/iotlb.ts';
import type { UsualCommands } from '../../commands-ahead.ts';
import type { Spaces } from '../spaces.ts';
import { CapHi } from '../spec/registers.ts';
import type { Structures } from '../structures.ts';
import type { RiscvIommuSurroundings } from '../surroundings.ts';
import { CONTEXT_OF_SUM, type Contexts, HOST_SPACE } from '../translation/contexts.ts';
import type { Translator } from '../translation/translator.ts';
import type { Registers } from './registers.ts';

/** lg2 of the bytes of a command. */
export const COMMAND_LG2 = 4;

/**
 * IOTINVAL, which comes often, as spec/commands.ts declares it; here because the compiler folds a module's own constants only.
 * Masks within the words of a command, and what is reserved in them.
 */
const OPERATION_MASK = 0x3ff;
const IOTINVAL_VMA = 1;
const AV = 1 << 10;
const PSCID_SHIFT = 12;
const PSCV = 1;
const GV = 2;
const NL = 4;
const GSCID_SHIFT = 12;
const GSCID_MASK = 0xffff;
const S = 1 << 9;
const ADDR_SHIFT = 10;
const ADDR_HI_MASK = 0x3fff_ffff;
const RESERVED_0 = 1 << 11;
const RESERVED_1 = 0xf000_0ff8 | 0;
const RESERVED_2 = 0x1ff;
const RESERVED_3 = 0xc000_0000 | 0;
/** For the test that compares them with their declaration. */
export const REPEATED = {
  OPERATION_MASK,
  IOTINVAL_VMA,
  AV,
  PSCID_SHIFT,
  PSCV,
  GV,
  NL,
  GSCID_SHIFT,
  GSCID_MASK,
  S,
  ADDR_SHIFT,
  ADDR_HI_MASK,
  RESERVED: [RESERVED_0, RESERVED_1, RESERVED_2, RESERVED_3],
} as const;

/** ADDR is bits 63:12 of an address, from bit ADDR_SHIFT of its doubleword on: how far the upper word is to the left of it, and the lower one's top bits to the right. */
const HI_LEFT = PAGE_LG2 - ADDR_SHIFT;
const HI_RIGHT = 32 - HI_LEFT;
const SMALL_LG2 = PAGE_LG2;
/** lg2 of the bytes of an address space. */
const EVERYTHING_LG2 = 64;

/** What the usual IOTINVAL.VMA, of one page of one process, has in its first three words, among what is looked at. */
const USUAL_0_MASK = OPERATION_MASK | AV | RESERVED_0;
const USUAL_0 = IOTINVAL_VMA | AV;
const USUAL_1_MASK = PSCV | NL | RESERVED_1;
const UNUSUAL_2 = S | RESERVED_2;

/** AHEAD, here because the compiler folds a module's own constants only. */
const [ahead0, ahead1, ahead2, ahead3] = AHEAD;

export interface InvalidationParts {
  readonly registers: Registers;
  readonly structures: Structures;
  readonly contexts: Contexts;
  readonly translator: Translator;
  readonly spaces: Spaces;
  readonly surroundings: RiscvIommuSurroundings;
}

/** "IOMMU Page-Table cache invalidation commands": IOTINVAL.VMA and IOTINVAL.GVMA. */
export class TranslationInvalidations implements UsualCommands {
  readonly #parts: InvalidationParts;
  readonly #words: Int32Array;
  readonly #iotlb: Iotlb;
  /** An address in what the command at work selects. */
  #hi = 0;
  #lo = 0;

  constructor(parts: InvalidationParts) {
    this.#parts = parts;
    this.#words = parts.structures.words;
    this.#iotlb = parts.translator.iotlb;
  }

  /** IOTINVAL.VMA of a page of a process, nothing reserved in it, while nobody observes. */
  run(count: number): number {
    const { contexts, translator } = this.#parts;
    const { usesSum } = contexts;
    const lg2 = translator.piecesOfLg2;
    const iotlb = this.#iotlb;
    let done = 0;
    for (; done < count; done++) {
      const at = done << 2;
      const word0 = ahead0[at];
      const word1 = ahead1[at];
      const word2 = ahead2[at];
      const word3 = ahead3[at];
      if ((word0 & USUAL_0_MASK) !== USUAL_0 || (word1 & USUAL_1_MASK) !== PSCV) break;
      if (((word2 & UNUSUAL_2) | (word3 & RESERVED_3)) !== 0) break;
      const space = (word1 & GV) !== 0 ? (word1 >>> GSCID_SHIFT) & GSCID_MASK : HOST_SPACE;
      const context = word0 >>> PSCID_SHIFT;
      const addressHi = (word3 << HI_LEFT) | (word2 >>> HI_RIGHT);
      const addressLo = word2 << HI_LEFT;
      iotlb.invalidateBlock(space, context, addressHi, addressLo, lg2);
      if (usesSum) iotlb.invalidateBlock(space, context + CONTEXT_OF_SUM, addressHi, addressLo, lg2);
    }
    return done;
  }

  #hasReserved(): boolean {
    const words = this.#words;
    const { registers } = this.#parts;
    if (((words[0] & RESERVED_0) | (words[1] & RESERVED_1) | (words[2] & RESERVED_2) | (words[3] & RESERVED_3)) !== 0) return true;
    if ((words[1] & NL) !== 0 && !registers.canHi(CapHi.nl)) return true;
    return (words[2] & S) !== 0 && !registers.canHi(CapHi.s);
  }

  /**
   * The aligned block that AV, ADDR and S select ("Address Range Invalidation Extension": a NAPOT range whose size the lowest 0 of ADDR gives; all ones
   * is unspecified, here everything): lg2 of its bytes, an address in it in `#hi` and `#lo`.
   */
  #selectBlock(): number {
    const words = this.#words;
    const low = words[2];
    const high = words[3] & ADDR_HI_MASK;
    this.#hi = (high << HI_LEFT) | (low >>> HI_RIGHT);
    this.#lo = (low >>> ADDR_SHIFT) << SMALL_LG2;
    if ((words[0] & AV) === 0) return EVERYTHING_LG2;
    if ((low & S) === 0) return SMALL_LG2;
    const page = (low >>> ADDR_SHIFT) | (high << (32 - ADDR_SHIFT));
    const ones = page === -1 ? 32 + trailingOnes(high >>> ADDR_SHIFT) : trailingOnes(page);
    return Math.min(SMALL_LG2 + ones + 1, EVERYTHING_LG2);
  }

  /** IOTINVAL.VMA, the command in `words`. Where the IOTLB cannot select as finely, it forgets more. False: it is illegal. */
  first(): boolean {
    if (this.#hasReserved()) return false;
    const words = this.#words;
    const { contexts, spaces } = this.#parts;
    const gscid = (words[1] & GV) !== 0 ? (words[1] >>> GSCID_SHIFT) & GSCID_MASK : -1;
    const pscid = (words[1] & PSCV) !== 0 ? words[0] >>> PSCID_SHIFT : -1;
    const lg2 = this.#selectBlock();
    const space = gscid < 0 ? HOST_SPACE : gscid;
    if (pscid < 0) {
      this.#iotlb.invalidateSpace(space);
    } else {
      this.#invalidateContext(space, pscid, lg2);
      if (contexts.usesSum) this.#invalidateContext(space, pscid + CONTEXT_OF_SUM, lg2);
    }
    if (spaces.isObserved) {
      const first = this.#firstPage(lg2);
      spaces.changedFirst(gscid, pscid, first, first + 2 ** (lg2 - SMALL_LG2) - 1);
    }
    return true;
  }

  /** By address: all that was made of a leaf that covers it, pieces of it elsewhere in the leaf too. */
  #invalidateContext(space: number, context: number, lg2: number): void {
    if (lg2 === EVERYTHING_LG2) this.#iotlb.invalidateContext(space, context);
    else this.#iotlb.invalidateBlock(space, context, this.#hi, this.#lo, Math.max(lg2, this.#parts.translator.piecesOfLg2));
  }

  /** Of the block that was selected. */
  #firstPage(lg2: number): number {
    const page = pfnOfHiLo(this.#hi, this.#lo);
    return page - (page % 2 ** (lg2 - SMALL_LG2));
  }

  /** IOTINVAL.GVMA: entries translate through both stages, so the address selects only where the first is Bare. PSCV is illegal. */
  second(): boolean {
    const words = this.#words;
    if (this.#hasReserved() || (words[1] & PSCV) !== 0) return false;
    const { translator, spaces } = this.#parts;
    const guest = (words[1] & GV) !== 0;
    const gscid = guest ? (words[1] >>> GSCID_SHIFT) & GSCID_MASK : -1;
    const lg2 = guest ? this.#selectBlock() : EVERYTHING_LG2;
    if (guest) this.#iotlb.invalidateSpace(gscid);
    else translator.forgetAll();
    const first = this.#firstPage(lg2);
    spaces.changedSecond(gscid, first, first + 2 ** (lg2 - SMALL_LG2) - 1);
    return true;
  }
}

/** 32 for all ones. */
function trailingOnes(bits: number): number {
  const zeros = ~bits;
  return zeros === 0 ? 32 : 31 - Math.clz32(zeros & -zeros);
}
