import type { ArmTableConfig } from '../../../pagetable/arm.ts';
import { get, getWide, isSet } from '../../fields.ts';
import { type Features, sizeOf } from '../capabilities.ts';
import { STE } from '../spec/ste.ts';

/** lg2 of granules by STE.S2TG and CD.TG0; 3 is reserved. */
export const GRANULES: readonly (12 | 14 | 16 | undefined)[] = [12, 16, 14, undefined];

/** Whether the SMMU has a granule (6.3.6). */
export function hasGranule(features: Features, granule: 12 | 14 | 16 | undefined): granule is 12 | 14 | 16 {
  if (granule === undefined) return false;
  return (granule === 12 ? features.GRAN4K : granule === 14 ? features.GRAN16K : features.GRAN64K) === 1;
}

/** Whether the granule's descriptors have 52-bit addresses (5.2 S2DS, 5.4 DS): 64K ones where OAS has. */
export function isWide(features: Features, granule: number, ds: boolean): boolean {
  return granule === 16 ? sizeOf(features.OAS) === 52 : ds && features.DS === 1;
}

/** Whether the granule's input can have 52 bits (5.2 S2T0SZ, 5.4 T0SZ). */
export function takesWideInput(features: Features, granule: number, ds: boolean): boolean {
  return granule === 16 || (ds && features.DS === 1);
}

/** Greatest TxSZ and S2T0SZ of a granule (5.2, S2T0SZ). */
export function greatestSize(features: Features, granule: number): number {
  return features.STT === 0 ? 39 : granule === 16 ? 47 : 48;
}

/** The granule of stage 2, or undefined: there is none. */
export function granuleOf(words: Int32Array): 12 | 14 | 16 | undefined {
  return GRANULES[get(words, STE.S2TG)];
}

/** Level of the walk's first table (Arm's numbering), or NaN where {S2SL0_2, S2SL0} is reserved; DDI 0487, VTCR_EL2.SL0 and SL2. */
function startLevel(words: Int32Array, features: Features): number {
  const granule = granuleOf(words);
  const sl0 = get(words, STE.S2SL0);
  const ds = isSet(words, STE.S2DS) && features.DS === 1;
  if (granule === 12) {
    if (ds && isSet(words, STE.S2SL0_2)) return sl0 === 0 ? -1 : Number.NaN;
    return sl0 < 3 ? 2 - sl0 : features.STT === 1 ? 3 : Number.NaN;
  }
  // Level 0 is one of 16K tables with 52-bit addresses alone.
  return sl0 < 3 || (granule === 14 && ds) ? 3 - sl0 : Number.NaN;
}

/** Whether S2SL0 fits S2T0SZ and S2TG: the first table has 2 entries at least, and is 16 tables at most (DDI 0487, D8.2). */
export function startFits(words: Int32Array, features: Features): boolean {
  const granule = granuleOf(words) ?? 12;
  const start = startLevel(words, features);
  if (Number.isNaN(start)) return false;
  const output = sizeOf(features.OAS);
  // Levels that a smaller output size does without (DDI 0487, AArch64.S2InvalidSL).
  const least: Readonly<Record<number, number>> = { 12: 0, 14: 1, 16: 1 };
  if (start === least[granule] && output <= { 12: 42, 14: 40, 16: 42 }[granule]) return false;
  const first = 64 - get(words, STE.S2T0SZ) - granule - (granule - 3) * (3 - start);
  return first >= 1 && first <= granule - 3 + 4;
}

/** Effective S2PS, in bits. */
export function outputSize(words: Int32Array, features: Features): number {
  return Math.min(sizeOf(get(words, STE.S2PS)), sizeOf(features.OAS));
}

/** S2TTB as the walk uses it: 64-byte aligned where the output has 52 bits (5.2, S2TTB). */
export function rootOf(address: number, output: number): bigint {
  return (BigInt(address) * 16n) & (output === 52 ? ~63n : ~15n);
}

/** The tables of stage 2 of an entry that is legal. */
export function stage2Config(words: Int32Array, features: Features): ArmTableConfig {
  const granuleLg2 = granuleOf(words) as 12 | 14 | 16;
  const wide = isWide(features, granuleLg2, isSet(words, STE.S2DS));
  const output = outputSize(words, features);
  const updates = features.HTTU > 0 && isSet(words, STE.S2HA);
  return {
    stage: 2,
    granuleLg2,
    inputBits: 64 - get(words, STE.S2T0SZ),
    outputBits: wide ? output : Math.min(output, 48),
    root: rootOf(getWide(words, STE.S2TTB), output),
    wide,
    startLevel: startLevel(words, features),
    xnx: features.XNX === 1,
    accessFlag: updates ? 'update' : isSet(words, STE.S2AFFD) ? 'ignore' : 'fault',
    dirty: updates && features.HTTU > 1 && isSet(words, STE.S2HD),
  };
}
