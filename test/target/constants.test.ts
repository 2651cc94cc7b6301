import { expect, test } from 'vitest';
import { EXECUTE, PRIVILEGED, READ_WRITE } from '../../src/memory/access.ts';
import { VERDICT as AMD } from '../../src/target/amd/translation/device-entry.ts';
import * as amd from '../../src/target/amd/translation/translator.ts';
import { VERDICT as SMMU } from '../../src/target/smmuv3/translation/route.ts';
import * as smmuv3 from '../../src/target/smmuv3/translation/translator.ts';
import * as vtd from '../../src/target/vtd/translation/translator.ts';

/* Translators repeat constants of other modules, for the compiler folds no others. */

test('AMD: verdicts are those of device entries', () => {
  expect(amd.REPEATED).toEqual({ PASS: AMD.pass, TRANSLATE: AMD.translate });
});

test('SMMUv3: the verdict is that of routes', () => {
  expect(smmuv3.REPEATED).toEqual({ TRANSLATE: SMMU.translate });
});

test('VT-d: accesses are those of src/memory/access.ts', () => {
  expect(vtd.REPEATED).toEqual({ SPECIAL: EXECUTE | PRIVILEGED, RW: READ_WRITE });
});
