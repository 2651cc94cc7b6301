import { describe, expect, test } from 'vitest';
import { GuestMemory } from '../../../src/memory/guest-memory.ts';
import { AmdIommu } from '../../../src/target/amd/index.ts';
import { VtdIommu } from '../../../src/target/vtd/index.ts';
import {
  AMD_CAPABILITY,
  amdFunction,
  amdMessage,
  amdRegisterFunction,
  countedRegisters,
  isX86Message,
  vtdFunction,
  vtdMessage,
  x86Message,
} from '../../../src/vmm/units/index.ts';

const fixed = { logical: false, redirectionHint: false, deliveryMode: 0, levelTriggered: false };

describe('x86 messages (SDM volume 3, 11.11)', () => {
  test('every field has its place', () => {
    expect(x86Message({ ...fixed, vector: 0x41, destination: 3 })).toEqual({ address: 0xfee0_3000n, data: 0x41 });
    expect(
      x86Message({ vector: 0x30, destination: 0xff, logical: true, redirectionHint: true, deliveryMode: 1, levelTriggered: true }),
    ).toEqual({ address: 0xfeef_f00cn, data: 0xc130 });
  });

  test('a destination beyond 8 bits has no message', () => {
    expect(x86Message({ ...fixed, vector: 1, destination: 256 })).toBeNull();
  });

  test('are writes to FEEx_xxxxh', () => {
    expect([0xfee0_0000n, 0xfeef_fffcn, 0xfeff_ffffn, 0xfedf_ffffn, 0x1_fee0_0000n].map(isX86Message)).toEqual([
      true,
      true,
      false,
      false,
      false,
    ]);
  });
});

test('VT-d: what is posted without a notification is nobody’s message (5.2.3); its registers take as many pages as its fault records need', () => {
  const memory = GuestMemory.ofBytes(1 << 16);
  const iommu = new VtdIommu({ faultRecords: 256 }, { memory });
  const store = (at: number, word: bigint) => memory.store64(0, at, Number(word >> 32n) | 0, Number(BigInt.asIntN(32, word)));
  // An entry (9.10) for vector 41h of the descriptor at 2000h, whose notifications are suppressed (SN).
  store(0x1000, (0x2000n << 32n) | 0x41_8001n);
  store(0x2020, 2n);
  iommu.write(0xb8, 8, 0x1000n);
  for (const command of [1n << 24n, 1n << 25n]) iommu.write(0x18, 4, command);
  const delivered: unknown[] = [];
  expect(vtdMessage(iommu, 0x28, 0xfee0_0010n, 0, (...message) => delivered.push(message))).toBe(true);
  memory.load64(0, 0x2008);
  expect([delivered, memory.word[0]]).toEqual([[], 1 << 1]);
  expect(vtdFunction(iommu, iommu).bars[0]).toMatchObject({ bytes: 8192 });
});

test('VT-d: a message goes as it is while nothing is remapped; another address is a write', () => {
  const iommu = new VtdIommu({}, { memory: GuestMemory.ofBytes(1 << 16) });
  const delivered: [bigint, number][] = [];
  expect(vtdMessage(iommu, 0x28, 0xfee0_1004n, 0x45, (...message) => delivered.push(message))).toBe(true);
  expect(vtdMessage(iommu, 0x28, 0x1000n, 0x45, () => delivered.push([0n, 0]))).toBe(false);
  expect(delivered).toEqual([[0xfee0_1004n, 0x45]]);
  const counts = { reads: 0, writes: 0 };
  const fn = vtdFunction(iommu, countedRegisters(iommu, counts));
  expect(fn.readBar(0, 0, 4)).toBe(0x10n);
  fn.writeBar(0, 0x18, 4, 0n);
  expect(counts).toEqual({ reads: 1, writes: 1 });
});

test('AMD-Vi: the capability block is where IVHD says, and the own message goes out without bus mastering', () => {
  const iommu = new AmdIommu({ memory: GuestMemory.ofBytes(1 << 16) });
  const sent: [bigint, number][] = [];
  const fn = amdFunction(iommu, (address, data) => sent.push([address, data]));
  expect(fn.readConfig(0x34, 1)).toBe(AMD_CAPABILITY);
  expect(fn.readConfig(AMD_CAPABILITY, 1)).toBe(0x0f);
  expect(fn.readConfig(AMD_CAPABILITY + 2, 2)).toBe(iommu.pci.read(0) >>> 16);
  expect(fn.readConfig(AMD_CAPABILITY + 16, 4)).toBe(iommu.pci.read(16));
  const msi = fn.readConfig(AMD_CAPABILITY + 1, 1);
  expect(fn.readConfig(msi, 1)).toBe(5);
  fn.writeConfig(msi + 4, 4, 0xfee0_0000);
  fn.writeConfig(msi + 12, 2, 0x21);
  fn.writeConfig(msi + 2, 2, 1);
  expect(fn.signal(0)).toBe(true);
  expect(sent).toEqual([[0xfee0_0000n, 0x21]]);
  const counts = { reads: 0, writes: 0 };
  expect(amdRegisterFunction(countedRegisters(iommu, counts)).readBar(0, 0x30, 8)).toBe(iommu.read(0x30, 8));
});

test('AMD-Vi: a message goes as it is while the unit is off', () => {
  const iommu = new AmdIommu({ memory: GuestMemory.ofBytes(1 << 16) });
  iommu.addEndpoint(0x28);
  const delivered: [bigint, number][] = [];
  expect(amdMessage(iommu, 0x28, 0xfee0_0000n, 1, (...message) => delivered.push(message))).toBe(true);
  expect(delivered).toEqual([[0xfee0_0000n, 1]]);
  expect(amdMessage(iommu, 0x28, 0x1000n, 1, () => {})).toBe(false);
});
