import { AHEAD } from '../../../memory/ahead.ts';
import type { UsualCommands } from '../../commands-ahead.ts';
import { CR0 } from '../spec/registers.ts';
import { PRIVATE_TAG } from '../translation/scope.ts';
import type { Translator } from '../translation/translator.ts';
import type { Registers } from './registers.ts';

/** AHEAD, and what spec/commands.ts declares of TLBI_NH_VA, here because the compiler folds a module's own constants only. */
const [ahead0, ahead1, ahead2, ahead3] = AHEAD;
const OP = 0xff;
const TLBI_NH_VA = 0x12;
const NUM_SCALE = 0x3f1_f000;
const VMID = 0xffff;
const ASID_SHIFT = 16;
const TTL = 3 << 8;
const TG = 3 << 10;
const TG_4K = 1 << 10;
/** For the test that compares them with their declaration. */
export const REPEATED = { OP, TLBI_NH_VA, NUM_SCALE, VMID, ASID_SHIFT, TTL, TG, TG_4K } as const;

const SMALL_LG2 = 12;

/** TLBI_NH_VA (4.4.2) of one page of 4K, as a range or not, while nobody observes. */
export class PageCommands implements UsualCommands {
  readonly #registers: Registers;
  readonly #translator: Translator;

  constructor(registers: Registers, translator: Translator) {
    this.#registers = registers;
    this.#translator = translator;
  }

  run(count: number): number {
    const { features } = this.#registers;
    // 7.1, 6.3.9: no command of an SMMU without stage 1; VMID wildcards name more than one.
    if (features.S1P === 0 || this.#registers.cr0(CR0.VMW) !== 0) return 0;
    const vmids = features.S2P === 1 ? VMID : 0;
    const ranges = features.RIL === 1 ? TG : 0;
    const translator = this.#translator;
    const { iotlb, hasPrivate } = translator;
    // An ASID is two contexts where some of either set are cached (scope.ts).
    if (hasPrivate && translator.hasShared) return 0;
    const { hasAnyPieces } = translator;
    const set = hasPrivate ? PRIVATE_TAG : 0;
    let done = 0;
    for (; done < count; done++) {
      const at = done << 2;
      const word0 = ahead0[at];
      const word1 = ahead1[at];
      const lo = ahead2[at];
      const hi = ahead3[at];
      if ((word0 & OP) !== TLBI_NH_VA) break;
      const granule = lo & ranges;
      // 4.4.1.1: with a granule it says how many, or of which level.
      if (granule !== 0 && (granule !== TG_4K || (word0 & NUM_SCALE) !== 0 || (lo & TTL) === 0)) break;
      const world = word1 & vmids;
      if (hasAnyPieces && translator.hasPieces(world)) break;
      const context = ((word1 >>> ASID_SHIFT) << 1) | set;
      iotlb.invalidateBlock(world, context, hi, lo, SMALL_LG2);
      iotlb.invalidateBlock(world, context | 1, hi, lo, SMALL_LG2);
    }
    return done;
  }
}
