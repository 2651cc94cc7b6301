import { type ArmVariant, testArm } from './arm-rules.ts';

const variants: readonly ArmVariant[] = [
  { stage: 2, granuleLg2: 12, inputBits: 41, outputBits: 48, startLevel: 1, accessFlag: 'update', dirty: true, xnx: true },
  { stage: 2, granuleLg2: 14, inputBits: 37, outputBits: 42, startLevel: 2, accessFlag: 'ignore' },
  { stage: 2, granuleLg2: 16, inputBits: 40, outputBits: 48, startLevel: 2, accessFlag: 'update' },
];
for (const variant of variants) testArm(variant);
