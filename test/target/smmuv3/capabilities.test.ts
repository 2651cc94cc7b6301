import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { GuestMemory } from '../../../src/memory/guest-memory.ts';
import { architectureOf, type Features, featuresOf, registerOf } from '../../../src/target/smmuv3/capabilities.ts';
import { CAPABILITIES, Smmuv3 } from '../../../src/target/smmuv3/index.ts';

test('the table of features in docs/targets/smmuv3.md is the one that the registers are made of', () => {
  const text = readFileSync(join(import.meta.dirname, '../../../docs/targets/smmuv3.md'), 'utf8');
  const rows = text.split('\n').filter((line) => /^\| IDR\d\.\w+ \| \d/.test(line));
  expect(rows).toEqual(CAPABILITIES.map(({ register, name, value, reason }) => `| ${register}.${name} | ${value} | ${reason} |`));
});

test('every bit of a register is one field’s at most, and every value fits', () => {
  const taken = new Map<string, bigint>();
  for (const { register, low, width, value, allowed } of CAPABILITIES) {
    const mask = ((1n << BigInt(width)) - 1n) << BigInt(low);
    expect((taken.get(register) ?? 0n) & mask).toBe(0n);
    taken.set(register, (taken.get(register) ?? 0n) | mask);
    expect([...allowed, value].every((one) => one >= 0 && one < 2 ** width)).toBe(true);
    expect(allowed).toContain(value);
  }
});

test('a state of other features is not loaded', () => {
  const memory = GuestMemory.ofBytes(4096);
  const smmu = new Smmuv3({ memory });
  const before = smmu.save();
  // One of each ID register.
  for (const features of [{ VMW: 0 }, { SIDSIZE: 8 }, { BBML: 1 }, { OAS: 5 }]) {
    const state = new Smmuv3({ memory, features }).save();
    expect(() => smmu.load(state)).toThrow(new TypeError('Smmuv3: the saved state is of other features'));
    expect(smmu.save()).toEqual(before);
  }
});

test('what another field makes RES0 is 0 with it', () => {
  const first = featuresOf({ S2P: 0 });
  expect([first.Hyp, first.VMW, first.VMID16, first.XNX]).toEqual([0, 0, 0, 0]);
  expect([{ VATOS: 1 }, { VATOS: 1, ATOS: 0 }, { VATOS: 1, S2P: 0 }].map((wanted) => featuresOf(wanted).VATOS)).toEqual([1, 0, 0]);
  expect(featuresOf({ ATS: 0 }).PRI).toBe(0);
  expect(featuresOf({ STALL_MODEL: 1 }).STALL_MAX).toBe(0);
  expect(registerOf('IDR0', featuresOf({ S1P: 0 })) & 3).toBe(1);
  expect(featuresOf({ VAX: 0 }).VAX).toBe(1);
  expect(featuresOf({ VAX: 0, DS: 0 }).VAX).toBe(0);
  expect(featuresOf({ GRAN64K: 0, DS: 0, OAS: 5 }).VAX).toBe(0);
});

test.each<[Partial<Features>, string]>([
  [{ S1P: 0, S2P: 0 }, 'S1P and S2P are both 0'],
  [{ GRAN4K: 0, GRAN16K: 0, GRAN64K: 0 }, 'there is no granule'],
  [{ ST_LEVEL: 0 }, 'SIDSIZE 16 needs ST_LEVEL 1'],
  [{ GRAN64K: 0, DS: 0 }, 'OAS 6 needs GRAN64K or DS'],
])('no SMMU has %j (6.3.2, 6.3.6)', (features, message) => {
  expect(() => featuresOf(features)).toThrow(new RangeError(`Smmuv3: features: ${message}`));
});

test.each<[Partial<Features>, number]>([
  [{}, 2],
  [{ S1P: 0 }, 2],
  [{ S2P: 0 }, 2],
  [{ RIL: 0 }, 1],
  [{ BBML: 0 }, 1],
  [{ FWB: 0 }, 1],
  [{ Hyp: 0 }, 1],
  [{ XNX: 0 }, 0],
])('with %j it is an SMMUv3.%i (6.3.8)', (features, version) => {
  expect(architectureOf(featuresOf(features))).toBe(version);
});
