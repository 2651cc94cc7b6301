import { AHEAD } from '../../../memory/ahead.ts';
import type { UsualCommands } from '../../commands-ahead.ts';
import type { Invalidations } from './invalidations.ts';
import type { Registers } from './registers.ts';

/** AHEAD, and what spec/descriptors.ts declares of the two descriptors, here because the compiler folds a module's own constants only. */
const ahead = AHEAD;
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
/** For the test that compares them with their declaration. */
export const REPEATED = {
  descriptors: { TYPE_LOW, IOTLB, IOTLB_CHECKED, IOTLB_PAGES, PASID_IOTLB_CHECKED, PASID_IOTLB_PAGES },
  fields: { PASID_BITS, DID_SHIFT, AM_MASK, ADDRESS_RESERVED, MAMV },
} as const;

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
    const invalidations = this.#invalidations;
    const { isLegacy } = this.#registers;
    const withPasid = wide && !isLegacy;
    const lg2 = wide ? 3 : 2;
    let done = 0;
    for (; done < count; done++) {
      const at = done << lg2;
      const low = ahead[at];
      const pasid = ahead[at | 1];
      if ((low & IOTLB_CHECKED) === IOTLB_PAGES) {
        if (pasid !== 0) break;
      } else if (!withPasid || (low & PASID_IOTLB_CHECKED) !== PASID_IOTLB_PAGES || pasid >>> PASID_BITS !== 0) break;
      const addressLo = ahead[at | 2];
      const addressHi = ahead[at | 3];
      const mask = addressLo & AM_MASK;
      if ((addressLo & ADDRESS_RESERVED) !== 0) break;
      if (wide && (ahead[at | 4] | ahead[at | 5] | ahead[at | 6] | ahead[at | 7]) !== 0) break;
      if ((low & TYPE_LOW) !== IOTLB) invalidations.forgetProcessPages(low >>> DID_SHIFT, pasid, addressHi, addressLo, mask);
      else if (mask <= MAMV) invalidations.forgetPages(low >>> DID_SHIFT, addressHi, addressLo, mask, isLegacy);
      else break;
    }
    return done;
  }
}
