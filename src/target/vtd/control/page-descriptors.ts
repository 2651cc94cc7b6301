import { AHEAD } from '../../../memory/ahead.ts';
import type { UsualCommands } from '../../commands-ahead.ts';
import type { Invalidations } from './invalidations.ts';
import type { Registers } from './registers.ts';

/** AHEAD, and what spec/descriptors.ts declares of the two descriptors, here because the compiler folds a module's own constants only. */
const [ahead0, ahead1, ahead2, ahead3, ahead4, ahead5, ahead6, ahead7] = AHEAD;
const TYPE_LOW = 0xf;
const IOTLB = 2;
const IOTLB_CHECKED = 0xff3f;
const IOTLB_PAGES = 0x32;
const PASID_IOTLB_CHECKED = 0xffff;
const PASID_IOTLB_PAGES = 0x36;
const PASID_BITS = 20;
const DID_SHIFT = 16;
const AM_MASK = 0x3f;
const ADDRESS_RESERVED = 0xf80;
const MAMV = 18;
/** Of translation/stages.ts, and NO_CONTEXT. */
const FIRST_STAGE = 0x1_0200;
const WITHOUT = -1;
/** For the test that compares them with their declaration. */
export const REPEATED = {
  descriptors: { TYPE_LOW, IOTLB, IOTLB_CHECKED, IOTLB_PAGES, PASID_IOTLB_CHECKED, PASID_IOTLB_PAGES },
  fields: { PASID_BITS, DID_SHIFT, AM_MASK, ADDRESS_RESERVED, MAMV },
  tags: { FIRST_STAGE, WITHOUT },
} as const;

const SMALL_LG2 = 12;
/** An address mask above this one means all addresses. */
const LARGEST_MASK = 64 - SMALL_LG2;

/**
 * The usual descriptors in a straight line: pages of the IOTLB, with PASID or without (6.5.2.3, 6.5.2.4), and nothing reserved in them, while
 * nobody observes, so that only the IOTLB changes.
 */
export class PageDescriptors implements UsualCommands {
  readonly #registers: Registers;
  readonly #invalidations: Invalidations;
  readonly #wide: boolean;

  /** `wide`: of 256 bits. */
  constructor(registers: Registers, invalidations: Invalidations, wide: boolean) {
    this.#registers = registers;
    this.#invalidations = invalidations;
    this.#wide = wide;
  }

  run(count: number): number {
    const wide = this.#wide;
    const { iotlb, inputHi } = this.#invalidations;
    const { isLegacy } = this.#registers;
    const withPasid = wide && !isLegacy;
    const lg2 = wide ? 3 : 2;
    let done = 0;
    for (; done < count; done++) {
      const at = done << lg2;
      const low = ahead0[at];
      const pasid = ahead1[at];
      if ((low & IOTLB_CHECKED) === IOTLB_PAGES) {
        if (pasid !== 0) break;
      } else if (!withPasid || (low & PASID_IOTLB_CHECKED) !== PASID_IOTLB_PAGES || pasid >>> PASID_BITS !== 0) break;
      const addressLo = ahead2[at];
      const addressHi = ahead3[at];
      const mask = addressLo & AM_MASK;
      if ((addressLo & ADDRESS_RESERVED) !== 0) break;
      if (wide && (ahead4[at] | ahead5[at] | ahead6[at] | ahead7[at]) !== 0) break;
      const domain = low >>> DID_SHIFT;
      if ((low & TYPE_LOW) !== IOTLB) {
        iotlb.invalidateBlock(domain ^ FIRST_STAGE, pasid, addressHi, addressLo, mask > LARGEST_MASK ? 64 : SMALL_LG2 + mask);
        continue;
      }
      if (mask > MAMV) break;
      if (!isLegacy) iotlb.invalidateSpace(domain ^ FIRST_STAGE);
      iotlb.invalidateBlock(domain, WITHOUT, addressHi & inputHi, addressLo, SMALL_LG2 + mask);
    }
    return done;
  }
}
