import { describe, expect, test } from 'vitest';
import { EXECUTE, PRIVILEGED, READ, READ_WRITE, WRITE } from '../../src/memory/access.ts';
import { FAULT_TABLE_ACCESS, faultKind, OUT_LO, OUT_PERMISSION, type TableMemory } from '../../src/pagetable/page-table.ts';
import { PROBE, RiscvTable } from '../../src/pagetable/riscv.ts';
import { TableRam } from './ram.ts';
import { type RiscvVariant, riscvRules } from './riscv-rules.ts';
import { testFormat } from './suite.ts';

const usual: RiscvVariant = {
  mode: 'sv39',
  secondStage: false,
  bigEndian: false,
  svpbmt: true,
  svrsw60t59b: false,
  updateAccessedDirty: true,
  sum: false,
};

const variants: [string, Partial<RiscvVariant>][] = [
  ['RISC-V Sv32', { mode: 'sv32' }],
  ['RISC-V Sv32x4, big-endian, A and D clear are faults', { mode: 'sv32', secondStage: true, bigEndian: true, updateAccessedDirty: false }],
  ['RISC-V Sv39', {}],
  ['RISC-V Sv39x4, Svrsw60t59b', { secondStage: true, svrsw60t59b: true }],
  ['RISC-V Sv48, big-endian, SUM', { mode: 'sv48', bigEndian: true, sum: true }],
  ['RISC-V Sv48x4, A and D clear are faults', { mode: 'sv48', secondStage: true, updateAccessedDirty: false }],
  ['RISC-V Sv57, no Svpbmt, Svrsw60t59b', { mode: 'sv57', svpbmt: false, svrsw60t59b: true }],
  ['RISC-V Sv57x4, big-endian', { mode: 'sv57', secondStage: true, bigEndian: true }],
];

for (const [name, variant] of variants) {
  const config = { ...usual, ...variant };
  testFormat({
    name,
    rules: riscvRules(config),
    create: (memory, root, allocator) => new RiscvTable({ ...config, memory, root, allocator }),
  });
}

const [V, R, W, U, A, D] = [1n, 2n, 4n, 16n, 64n, 128n];

/** The whole of a table of one level that matters: Sv39's leaves, or Sv32's, at page 3, under a root at 1. */
function tables(entries: readonly bigint[], bytes: 4 | 8) {
  const ram = new TableRam(8, 8);
  const at = (page: number) => (BigInt(page) << 10n) | V;
  ram.store(0x1000n, bytes, false, at(bytes === 4 ? 3 : 2));
  ram.store(0x2000n, bytes, false, at(3));
  entries.forEach((entry, i) => {
    ram.store(0x3000n + BigInt(i * bytes), bytes, false, entry);
  });
  return ram;
}

describe('RISC-V', () => {
  test('a NAPOT entry of any other size than 64 KiB is reserved: nothing of it is enumerated (Svnapot)', () => {
    const napot = (1n << 63n) | V | R | U | A | D;
    for (const [low, pages] of [
      [8n, 1],
      [0n, 0],
      [1n, 0],
      [4n, 0],
      [12n, 0],
    ] as const) {
      const ram = tables([napot | (0x50n << 10n) | (low << 10n)], 8);
      const runs: number[] = [];
      new RiscvTable({ ...usual, memory: ram.memory, root: 1 }).enumerate(0, 0, (...run) => runs.push(...run) > 0, 100);
      expect(runs.length / 4, `PPN ${low}`).toBe(pages);
    }
  });

  test('Sv32: an entry that somebody else changes while A and D are set is read again; one that never stays is a fault', () => {
    const mine = (0x50n << 10n) | V | R | W | U;
    const theirs = (0x60n << 10n) | V | R | W | U;
    const ram = tables([theirs, mine], 4);
    let left = 1;
    const memory: TableMemory = {
      ...ram.memory,
      // The entry is changed after the walk has read it, and before what stands beside it is loaded with it.
      load64: (hi, lo) => {
        if (left-- > 0) ram.store(0x3004n, 4, false, (BigInt(0x70 + left) << 10n) | V | R | W | U);
        return ram.memory.load64(hi, lo);
      },
    };
    const table = new RiscvTable({ ...usual, mode: 'sv32', memory, root: 1 });
    expect(table.walk(0, 0x1010, WRITE)).toBe(12);
    expect(table.out[OUT_LO]).toBe(0x7_0010);
    expect([ram.load(0x3000n, 4, false), ram.load(0x3004n, 4, false)]).toEqual([theirs, (0x70n << 10n) | V | R | W | U | A | D]);
    left = 1000;
    ram.store(0x3004n, 4, false, mine);
    expect(faultKind(table.walk(0, 0x1010, WRITE))).toBe(FAULT_TABLE_ACCESS);
  });

  test('a probe of a supervisor for a user’s page is granted reading and writing where SUM is set, and never a fetch', () => {
    const ram = tables([(0x50n << 10n) | V | R | W | 8n | U | A | D], 8);
    const probe = (sum: boolean, access: number) => {
      const table = new RiscvTable({ ...usual, sum, memory: ram.memory, root: 1 });
      const lg2 = table.walk(0, 0, access | PRIVILEGED | PROBE);
      return lg2 < 0 ? 'fault' : table.out[OUT_PERMISSION];
    };
    expect([probe(true, READ), probe(true, READ | EXECUTE), probe(false, READ)]).toEqual([READ_WRITE, 'fault', 'fault']);
  });
});
