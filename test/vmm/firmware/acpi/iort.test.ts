import { describe, expect, test } from 'vitest';
import { GuestMemory } from '../../../../src/memory/guest-memory.ts';
import { Smmuv3 } from '../../../../src/target/smmuv3/index.ts';
import { REG } from '../../../../src/target/smmuv3/spec/registers.ts';
import { type IortDescription, iortTable } from '../../../../src/vmm/firmware/acpi/iort.ts';
import { PciHost } from '../../../../src/vmm/pci/host.ts';
import { PhysicalSpace } from '../../../../src/vmm/qtest/physical-space.ts';

const smmu = { registers: 0x905_0000n, event: 106, pri: 107, sync: 108, gerror: 109 };
const root = { segment: 1, smmu: 0, streams: [{ first: 0x100, count: 0x200, output: 0x1100 }], ats: true };
const description: IortDescription = { smmus: [smmu], roots: [root] };
const words = (bytes: Uint8Array, at: number, count: number) => [...new Uint32Array(bytes.slice(at, at + 4 * count).buffer)];

describe('IORT, DEN0049E', () => {
  test('an SMMUv3 and a root complex whose requester IDs become its StreamIDs', () => {
    const table = iortTable(description);
    expect(table.reduce((sum, byte) => (sum + byte) & 0xff, 0)).toBe(0);
    expect([String.fromCharCode(...table.subarray(0, 4)), table[8], ...words(table, 36, 2)]).toEqual(['IORT', 5, 2, 48]);
    // Type 4, 68 bytes, revision 4; no mappings; registers, COHACC.
    expect(words(table, 48, 7)).toEqual([0x0400_4404, 0, 0, 0, 0x905_0000, 0, 1]);
    expect(words(table, 48 + 44, 4)).toEqual([106, 107, 109, 108]);
    // Type 2, 36 bytes and a mapping, revision 3; ATS, segment; first, last of 0x200, output, the SMMU's place.
    expect(words(table, 116, 4)).toEqual([0x0300_3802, 1, 1, 36]);
    // CCA; memory access: CPM and DACS, in the last byte of its eight.
    expect(words(table, 116 + 16, 2)).toEqual([1, 0x0300_0000]);
    expect(words(table, 116 + 24, 3)).toEqual([1, 1, 64]);
    expect(words(table, 116 + 36, 5)).toEqual([0x100, 0x1ff, 0x1100, 48, 0]);
    expect(table).toHaveLength(172);
  });

  test('an SMMUv3 whose tables are not read as the processors see memory', () => {
    expect(words(iortTable({ smmus: [{ ...smmu, coherent: false }], roots: [] }), 48 + 24, 1)).toEqual([0]);
  });

  test('the address of a VATOS page', () => {
    const table = iortTable({ smmus: [{ ...smmu, vatos: 0x1_0907_0000n }], roots: [] });
    expect(words(table, 48 + 32, 2)).toEqual([0x907_0000, 1]);
  });

  test.each([
    [0, 0n],
    [1, 5n],
  ])('IDR0.VATOS %i in a machine: the page answers where the table and IDR2.BA_VATOS say, inside the unit’s window', (VATOS, kept) => {
    const memory = GuestMemory.ofBytes(1 << 16);
    const unit = new Smmuv3({ memory, features: { VATOS } });
    const registers = 0x905_0000n;
    const space = new PhysicalSpace(memory, [{ at: registers, bytes: unit.registerBytes, registers: unit }], new PciHost());
    const table = iortTable({ smmus: [{ registers, vatos: registers + 0x2_0000n }], roots: [] });
    const [vatos] = words(table, 48 + 32, 1);
    const BA_VATOS = space.read(registers + BigInt(REG.IDR2), 4) & 0x3ffn;
    expect(BigInt(vatos)).toBe(registers + 0x2_0000n + 0x1_0000n * BA_VATOS);
    // VATOS_SID, 6.2.3.
    space.write(BigInt(vatos) + 0xa08n, 8, 5n);
    expect([space.read(BigInt(vatos) + 0xa08n, 8), space.read(registers + 0x3_0000n + 0xa08n, 8)]).toEqual([kept, 0n]);
    expect(space.read(registers + BigInt(REG.IDR0), 4) !== 0n).toBe(true);
  });

  test('messages go on to an ITS group; the SMMU’s own by a single mapping that it names', () => {
    const table = iortTable({
      its: [{ its: [0, 3] }],
      smmus: [{ ...smmu, its: 0, messages: [{ first: 0, count: 0x1_0000, output: 0 }], ownDevice: 0x1_0000 }],
      roots: [],
    });
    expect(words(table, 48, 7)).toEqual([0x0100_1c00, 0, 0, 0, 2, 0, 3]);
    expect(words(table, 76 + 24, 1)).toEqual([0x11]);
    expect(words(table, 76 + 64, 11)).toEqual([1, 0, 0xffff, 0, 48, 0, 0, 0, 0x1_0000, 48, 1]);
  });

  test('messages of streams, but none of the SMMU’s own: no mapping is named for those', () => {
    const table = iortTable({
      its: [{ its: [0] }],
      smmus: [{ ...smmu, its: 0, messages: [{ first: 0, count: 1, output: 0 }] }],
      roots: [],
    });
    expect([...words(table, 72 + 24, 1), ...words(table, 72 + 64, 1)]).toEqual([1, 0]);
  });

  test('reserved memory: its ranges, and the streams that reach it', () => {
    const reserved = { smmu: 0, streams: { first: 0, count: 1, output: 8 }, ranges: [{ base: 0x800_0000n, bytes: 0x10_0000n }] };
    const table = iortTable({ smmus: [smmu], roots: [], reserved: [reserved] });
    expect(words(table, 116, 17)).toEqual([0x0300_4406, 1, 1, 48, 0, 1, 28, 0x800_0000, 0, 0x10_0000, 0, 0, 0, 0, 8, 48, 0]);
  });

  test.each<[string, Partial<IortDescription>]>([
    ['there is no SMMU 1', { roots: [{ ...root, smmu: 1 }] }],
    ['there is no ITS group 0', { smmus: [{ ...smmu, its: 0 }] }],
    ['messages without an ITS group', { smmus: [{ ...smmu, ownDevice: 1 }] }],
    ['registers 0x1000 are not aligned', { smmus: [{ ...smmu, registers: 0x1000n }] }],
    ['VATOS page 0x9071000 is not aligned', { smmus: [{ ...smmu, vatos: 0x907_1000n }] }],
    ['no range', { roots: [{ ...root, streams: [{ first: 0, count: 0, output: 0 }] }] }],
    [
      'no range of 64 KiB granules',
      { reserved: [{ smmu: 0, streams: { first: 0, count: 1, output: 0 }, ranges: [{ base: 1n, bytes: 0x1_0000n }] }] },
    ],
    [
      'of 4096 bytes is no range of 64 KiB granules',
      { reserved: [{ smmu: 0, streams: { first: 0, count: 1, output: 0 }, ranges: [{ base: 0n, bytes: 0x1000n }] }] },
    ],
    ['no number of 32 bits', { smmus: [{ ...smmu, event: 2 ** 32 }] }],
  ])('refused: %s', (what, change) => {
    expect(() => iortTable({ ...description, ...change })).toThrow(what);
  });
});
