import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { GuestMemory } from '../../../src/memory/guest-memory.ts';
import { featuresOf, registerOf } from '../../../src/target/smmuv3/capabilities.ts';
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
  const state = new Smmuv3({ memory, features: { OAS: 5 } }).save();
  const smmu = new Smmuv3({ memory });
  const before = smmu.save();
  expect(() => smmu.load(state)).toThrow(new TypeError('Smmuv3: the saved state is of other features'));
  expect(smmu.save()).toEqual(before);
});

test('what another field makes RES0 is 0 with it', () => {
  const first = featuresOf({ S2P: 0 });
  expect([first.Hyp, first.VMW, first.VMID16, first.XNX]).toEqual([0, 0, 0, 0]);
  expect(featuresOf({ ATS: 0 }).PRI).toBe(0);
  expect(featuresOf({ STALL_MODEL: 1 }).STALL_MAX).toBe(0);
  expect(registerOf('IDR0', featuresOf({ S1P: 0 })) & 3).toBe(1);
  expect(featuresOf({ VAX: 0 }).VAX).toBe(1);
  expect(featuresOf({ VAX: 0, DS: 0 }).VAX).toBe(0);
});
