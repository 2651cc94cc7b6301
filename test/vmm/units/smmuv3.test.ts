import { expect, test } from 'vitest';
import { GuestMemory } from '../../../src/memory/guest-memory.ts';
import { Smmuv3 } from '../../../src/target/smmuv3/index.ts';
import { smmuFunction } from '../../../src/vmm/units/index.ts';

/** VATOS_SID, in the page that 6.2.3 names. */
const VATOS_SID = 0x2_0a08;

/** What a function's BAR 0 says of its size, with all bits of its address set. */
function barBytes(fn: ReturnType<typeof smmuFunction>): number {
  fn.writeConfig(0x10, 4, 0xffff_ffff);
  return -((fn.readConfig(0x10, 4) & ~0xf) | 0);
}

test('the register pages of an SMMU with VATOS are three, and BAR 0 has room for them', () => {
  const smmu = new Smmuv3({ memory: GuestMemory.ofBytes(1 << 16), features: { VATOS: 1 } });
  const fn = smmuFunction(smmu, smmu.registerBytes);
  expect(barBytes(fn)).toBe(0x4_0000);
  fn.writeBar(0, VATOS_SID, 4, 0x28n);
  expect([fn.readBar(0, VATOS_SID, 4), fn.readBar(0, 0x3_fff8, 8)]).toEqual([0x28n, 0n]);
});

test('without, it is two', () => {
  expect(barBytes(smmuFunction(new Smmuv3({ memory: GuestMemory.ofBytes(1 << 16) })))).toBe(0x2_0000);
  expect(() => smmuFunction(new Smmuv3({ memory: GuestMemory.ofBytes(1 << 16) }), 0x1_0000)).toThrow(RangeError);
});
