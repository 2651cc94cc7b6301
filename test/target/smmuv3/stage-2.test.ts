import { expect, test } from 'vitest';
import { type Features, featuresOf } from '../../../src/target/smmuv3/capabilities.ts';
import { STE } from '../../../src/target/smmuv3/spec/ste.ts';
import { stage2Config, startFits } from '../../../src/target/smmuv3/translation/stage-2.ts';
import { structure } from './guest.ts';

/* Where a walk of stage 2 begins: IHI 0070 5.2 (S2SL0, S2SL0_2, S2T0SZ), DDI 0487 VTCR_EL2.SL0 and SL2, D8.2, AArch64.S2InvalidSL. */

/** S2TG. */
const TG = { '4K': 0, '16K': 2, '64K': 1 } as const;
/** IDR5.OAS. */
const OAS = { 40: 2, 42: 3, 44: 4, 48: 5, 52: 6 } as const;

interface Case {
  readonly granule: keyof typeof TG;
  readonly sl0: number;
  readonly sl2?: number;
  readonly ds?: number;
  /** Bits of the input. */
  readonly input: number;
  readonly features?: Partial<Features>;
  /** Level of the first table; null: reserved, or it does not fit. */
  readonly start: number | null;
  readonly why?: string;
}

test.each<Case>([
  { granule: '4K', sl0: 0, input: 30, start: 2 },
  { granule: '4K', sl0: 1, input: 39, start: 1 },
  { granule: '4K', sl0: 2, input: 48, start: 0 },
  { granule: '4K', sl0: 3, input: 21, start: 3, why: 'small tables' },
  { granule: '4K', sl0: 3, input: 25, features: { STT: 0 }, start: null, why: 'without small tables' },
  { granule: '4K', sl0: 0, sl2: 1, ds: 1, input: 52, start: -1, why: '52 bits' },
  { granule: '4K', sl0: 1, sl2: 1, ds: 1, input: 52, start: null, why: 'reserved with SL2' },
  { granule: '4K', sl0: 0, sl2: 1, input: 30, start: 2, why: 'SL2 counts with DS alone' },
  { granule: '4K', sl0: 0, sl2: 1, ds: 1, input: 30, features: { DS: 0 }, start: 2, why: 'DS counts where it is there' },
  { granule: '16K', sl0: 0, input: 25, start: 3 },
  { granule: '16K', sl0: 1, input: 36, start: 2 },
  { granule: '16K', sl0: 2, input: 47, start: 1 },
  { granule: '16K', sl0: 3, ds: 1, input: 52, start: 0, why: '52 bits' },
  { granule: '16K', sl0: 3, input: 48, start: null, why: 'level 0 is of 52 bits alone' },
  { granule: '64K', sl0: 0, input: 29, start: 3 },
  { granule: '64K', sl0: 1, input: 42, start: 2 },
  { granule: '64K', sl0: 2, input: 48, start: 1 },
  { granule: '64K', sl0: 3, input: 48, start: null, why: 'reserved' },
  { granule: '64K', sl0: 3, ds: 1, input: 48, start: null, why: 'reserved, DS or not' },
  // The first table has two entries at least, and is 16 tables at most.
  { granule: '4K', sl0: 1, input: 31, start: 1, why: 'two entries' },
  { granule: '4K', sl0: 1, input: 30, start: null, why: 'one entry' },
  { granule: '4K', sl0: 1, input: 43, start: 1, why: '16 tables' },
  { granule: '4K', sl0: 1, input: 44, start: null, why: '32 tables' },
  { granule: '64K', sl0: 1, input: 47, start: null, why: '32 tables of 64K' },
  // Levels that an output so small does without.
  { granule: '4K', sl0: 2, input: 40, features: { OAS: OAS[42] }, start: null, why: 'level 0 in front of 42 bits' },
  { granule: '4K', sl0: 2, input: 44, features: { OAS: OAS[44] }, start: 0, why: 'level 0 in front of 44 bits' },
  { granule: '16K', sl0: 2, input: 40, features: { OAS: OAS[40] }, start: null, why: 'level 1 in front of 40 bits' },
  { granule: '16K', sl0: 2, input: 42, features: { OAS: OAS[42] }, start: 1, why: 'level 1 in front of 42 bits' },
  { granule: '64K', sl0: 2, input: 43, features: { OAS: OAS[42] }, start: null, why: 'level 1 in front of 42 bits' },
  { granule: '64K', sl0: 2, input: 44, features: { OAS: OAS[44] }, start: 1, why: 'level 1 in front of 44 bits' },
])('$granule, SL0 $sl0, $input bits: level $start $why', ({ granule, sl0, sl2 = 0, ds = 0, input, features = {}, start }) => {
  const words = structure(STE, { S2TG: TG[granule], S2SL0: sl0, S2SL0_2: sl2, S2DS: ds, S2T0SZ: 64 - input, S2PS: 6, S2AA64: 1 });
  const there = featuresOf(features);
  expect(startFits(words, there)).toBe(start !== null);
  if (start !== null) expect(stage2Config(words, there).startLevel).toBe(start);
});

test.each([
  ['a fault', { S2AFFD: 0 }, {}, 'fault'],
  ['ignored: S2AFFD', { S2AFFD: 1 }, {}, 'ignore'],
  ['updated: S2HA', { S2HA: 1 }, {}, 'update'],
  ['S2HA without HTTU', { S2HA: 1 }, { HTTU: 0 }, 'fault'],
] as const)('an Access flag that is 0: %s', (_, ste, features, accessFlag) => {
  const words = structure(STE, { S2T0SZ: 25, S2SL0: 1, S2PS: 5, S2AA64: 1, ...ste });
  expect(stage2Config(words, featuresOf(features)).accessFlag).toBe(accessFlag);
});

test.each([
  ['64K: where OAS has 52 bits', { S2TG: 1 }, {}, true],
  ['64K, DS or not', { S2TG: 1, S2DS: 1 }, { OAS: OAS[48] }, false],
  ['4K: where DS says so', { S2TG: 0, S2DS: 1 }, {}, true],
  ['4K without DS', { S2TG: 0 }, {}, false],
  ['16K whose SMMU has no DS', { S2TG: 2, S2DS: 1 }, { DS: 0 }, false],
] as const)('descriptors with 52-bit addresses (5.2, S2DS): %s', (_, ste, features, wide) => {
  const words = structure(STE, { S2T0SZ: 25, S2SL0: 1, S2PS: 6, S2AA64: 1, ...ste });
  expect(stage2Config(words, featuresOf(features))).toMatchObject({ wide, outputBits: wide ? 52 : 48 });
});

test('S2TTB: aligned to 64 bytes where the output has 52 bits, to 16 where it has fewer', () => {
  const root = (ps: number) =>
    stage2Config(structure(STE, { S2T0SZ: 25, S2SL0: 1, S2PS: ps, S2TTB: 0x1_0003, S2AA64: 1 }), featuresOf({})).root;
  expect([root(6), root(5)]).toEqual([0x10_0000n, 0x10_0030n]);
});
