import { AHEAD } from '../../../memory/ahead.ts';
import type { UsualCommands } from '../../commands-ahead.ts';
import type { Translator } from '../translation/translator.ts';

/** AHEAD, and what spec/commands.ts declares of INVALIDATE_IOMMU_PAGES, here because the compiler folds a module's own constants only. */
const [ahead0, ahead1, ahead2, ahead3] = AHEAD;
const RESERVED_0 = 0xfff0_0000 | 0;
const PASID = 0xf_ffff;
/** Opcode and reserved bits of its second word, the opcode alone, and the domain. */
const CHECKED_1 = 0xffff_0000 | 0;
const OPCODE_1 = 0x3000_0000;
const DOMAIN = 0xffff;
const RESERVED_2 = 0xff8;
const S = 1;
const GN = 4;
/** NO_CONTEXT */
const WITHOUT = -1;
/** For the test that compares them with their declaration. */
export const REPEATED = { RESERVED_0, PASID, CHECKED_1, OPCODE_1, DOMAIN, RESERVED_2, S, GN, WITHOUT } as const;

const SMALL_LG2 = 12;
const ADDRESS_LOW = -(1 << SMALL_LG2);

/** INVALIDATE_IOMMU_PAGES (2.4.3) of what is cached by its own address, while nobody observes. */
export class PageCommands implements UsualCommands {
  readonly #translator: Translator;

  constructor(translator: Translator) {
    this.#translator = translator;
  }

  run(count: number): number {
    const translator = this.#translator;
    const { iotlb } = translator;
    let done = 0;
    for (; done < count; done++) {
      const at = done << 2;
      const word0 = ahead0[at];
      const word1 = ahead1[at];
      const lo = ahead2[at];
      const hi = ahead3[at];
      if ((word1 & CHECKED_1) !== OPCODE_1 || ((word0 & RESERVED_0) | (lo & RESERVED_2)) !== 0) break;
      const domain = word1 & DOMAIN;
      const hasPasid = (lo & GN) !== 0;
      if (hasPasid ? translator.hasPieces(domain) : translator.hasGuestTables(domain)) break;
      iotlb.invalidateBlock(domain, hasPasid ? word0 & PASID : WITHOUT, hi, lo, (lo & S) === 0 ? SMALL_LG2 : sizeOf(hi, lo));
      translator.forgetGuestTables(domain);
    }
    return done;
  }
}

/** lg2 of the bytes that a command with S means: the lowest bit of its address that is clear, from bit 12 on, says it, bit 12 for two pages (2.4.3). */
export function sizeOf(hi: number, lo: number): number {
  const low = ~lo & ADDRESS_LOW;
  if (low !== 0) return 32 - Math.clz32(low & -low);
  const high = ~hi;
  return high === 0 ? 64 : 64 - Math.clz32(high & -high);
}
