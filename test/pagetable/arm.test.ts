import { describe, expect, it } from 'vitest';
import { READ, READ_WRITE, WRITE } from '../../src/memory/index.ts';
import { ArmTable, type ArmTableConfig } from '../../src/pagetable/arm.ts';
import { FAULT_INPUT_SIZE, FAULT_TABLE_ACCESS, faultCode, OUT_LO, type TableMemory } from '../../src/pagetable/page-table.ts';
import { type ArmVariant, testArm } from './arm-rules.ts';
import { field } from './oracle.ts';
import { TableRam } from './ram.ts';

const variants: readonly ArmVariant[] = [
  { stage: 1, granuleLg2: 12, inputBits: 48, outputBits: 48 },
  { stage: 1, granuleLg2: 12, inputBits: 39, outputBits: 40, upper: true, topByteIgnored: true, accessFlag: 'update', dirty: true },
  { stage: 1, granuleLg2: 12, inputBits: 52, outputBits: 52, wide: true, accessFlag: 'update' },
  { stage: 1, granuleLg2: 14, inputBits: 48, outputBits: 44, topByteIgnored: true, hierarchyDisabled: true, accessFlag: 'ignore' },
  { stage: 1, granuleLg2: 14, inputBits: 52, outputBits: 52, wide: true, upper: true },
  { stage: 1, granuleLg2: 16, inputBits: 48, outputBits: 52, wide: true, accessFlag: 'update', dirty: true },
];
for (const variant of variants) testArm(variant);

describe('an Arm table is refused', () => {
  const usual: ArmTableConfig = { stage: 1, granuleLg2: 12, inputBits: 48, outputBits: 48, root: 0n };
  it.each<[string, Partial<ArmTableConfig>]>([
    ['input wider than 48 bits without 52-bit addresses (D8.2)', { inputBits: 49 }],
    ['input of one page', { inputBits: 12 }],
    ['output wider than 48 bits without 52-bit addresses', { outputBits: 52 }],
    ['output narrower than CD.IPS can say (IHI 0070, 5.4)', { outputBits: 31 }],
    ['a root beyond the output size', { outputBits: 40, root: 1n << 40n }],
    ['concatenated root tables in stage 1 (D8.2: stage 2 only)', { inputBits: 40, startLevel: 1 }],
    ['more than 16 concatenated root tables', { stage: 2, inputBits: 44, startLevel: 1 }],
    ['a start level that leaves no index to the root', { stage: 2, inputBits: 39, startLevel: 0 }],
    ['dirty state without the Access flag (IHI 0070, 5.4: HD needs HA)', { dirty: true }],
  ])('with %s', (_what, wrong) => {
    const ram = new TableRam(1, 1);
    expect(() => new ArmTable(ram.memory, usual)).not.toThrow();
    expect(() => new ArmTable(ram.memory, { ...usual, ...wrong })).toThrow(RangeError);
  });
});

describe('an Arm root table of a few entries', () => {
  it('lies aligned to its size, within a page, and the bits below do not count (D8.2, "Translation table base address")', () => {
    const ram = new TableRam(64, 2);
    // 33 bits: level 1 with 3 bits of index, 64 bytes.
    const config: ArmTableConfig = { stage: 1, granuleLg2: 12, inputBits: 33, outputBits: 40, root: 0x1fc0n + 0x30n, allocator: ram };
    const table = new ArmTable(ram.memory, config);
    expect(table.map(0x1f_ffff, 7, 1, READ_WRITE)).toBe(1);
    expect(ram.load(0x1ff8n, 8, false)! & 3n).toBe(3n);
    expect(table.walk(1, 0xffff_f123 | 0, WRITE)).toBe(12);
    expect(table.out[OUT_LO]).toBe(0x7123);
    expect(table.walk(2, 0, READ)).toBe(faultCode(FAULT_INPUT_SIZE, 2));
    expect(table.unmap(0x1f_ffff, 1)).toBe(1);
    expect(ram.inUse).toBe(0);
  });
});

describe('a split of an Arm block', () => {
  it.each([
    // Stage 1: DBM with AP[2] set is clean (D8.5.2); AttrIndx 5, outer shareable.
    { stage: 1 as const, marks: (1n << 51n) | (1n << 7n) | (5n << 2n) | (2n << 8n), memoryType: 0 },
    { stage: 2 as const, marks: (1n << 51n) | (1n << 7n) | (5n << 2n) | (2n << 8n), memoryType: 0 },
  ])('keeps dirty state and memory type: stage $stage', ({ stage, marks, memoryType }) => {
    const ram = new TableRam(64, 2);
    const config: ArmTableConfig = { stage, granuleLg2: 12, inputBits: 30, outputBits: 40, root: 0x1000n, allocator: ram, memoryType };
    const table = new ArmTable(ram.memory, { ...config, accessFlag: 'update', dirty: true });
    expect(table.map(0, 512, 512, READ_WRITE)).toBe(512);
    ram.store(0x1000n, 8, false, ram.load(0x1000n, 8, false)! | marks);
    expect(table.unmap(9, 1)).toBe(1);
    for (const index of [0, 8, 10, 511]) {
      const entry = ram.load(0x2000n + BigInt(index) * 8n, 8, false)!;
      expect(entry & marks).toBe(marks);
      expect(field(entry, 47, 12)).toBe(BigInt(512 + index));
      // A page of its own, in no run (D8.7.1).
      expect(entry & (1n << 52n)).toBe(0n);
    }
    expect(table.walk(0, 0x8000, WRITE)).toBe(12);
  });
});

describe('hardware updates of an Arm entry that somebody else changes meanwhile (D8.5: atomic updates)', () => {
  const config: ArmTableConfig = {
    stage: 1,
    granuleLg2: 12,
    inputBits: 21,
    outputBits: 40,
    root: 0x1000n,
    accessFlag: 'update',
    dirty: true,
  };
  const clean = 3n | (1n << 6n) | (1n << 7n) | (1n << 51n);

  /** Memory in which the first `losses` updates of the root's first entry come too late: it maps another page by then. */
  function contended(ram: TableRam, losses: number): TableMemory {
    let left = losses;
    return {
      ...ram.memory,
      compareExchange64: (...exchange) => {
        if (left-- <= 0) return ram.memory.compareExchange64(...exchange);
        ram.store(0x1000n, 8, false, (BigInt(left + 5) << 12n) | clean);
        return 0;
      },
    };
  }

  it('start over with what stands there then', () => {
    const ram = new TableRam(2, 2);
    ram.store(0x1000n, 8, false, 0x9000n | clean);
    const table = new ArmTable(contended(ram, 3), config);
    expect(table.walk(0, 0x10, WRITE)).toBe(12);
    expect(table.out[OUT_LO]).toBe(0x5010);
    expect(ram.load(0x1000n, 8, false)).toBe((0x5000n | clean | (1n << 10n)) & ~(1n << 7n));
  });

  it('end after a bounded number of tries', () => {
    const ram = new TableRam(2, 2);
    ram.store(0x1000n, 8, false, 0x9000n | clean);
    expect(new ArmTable(contended(ram, 1000), config).walk(0, 0x10, READ)).toBe(faultCode(FAULT_TABLE_ACCESS, 0));
  });
});
