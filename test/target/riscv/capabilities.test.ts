import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { GuestMemory } from '../../../src/memory/guest-memory.ts';
import { ALL_CAPABILITIES, CAPABILITIES } from '../../../src/target/riscv/capabilities.ts';
import { RiscvIommu, riscvCapabilities } from '../../../src/target/riscv/index.ts';
import { Cap, CapHi } from '../../../src/target/riscv/spec/registers.ts';

const DOCS = join(import.meta.dirname, '../../../docs/targets/riscv.md');

test('the table in docs/targets/riscv.md is capabilities.ts', () => {
  const rows = CAPABILITIES.map(({ name, bits: [high, low], value, reason }) => {
    const place = Number(high) === low ? `${low}` : `${high}:${low}`;
    return `| ${name} | ${place} | ${Number(value)} | ${reason} |`;
  });
  expect(readFileSync(DOCS, 'utf8')).toContain(rows.join('\n'));
});

test('a guest reads it where the embedder hands in none, and what the embedder hands in otherwise', () => {
  const memory = GuestMemory.ofBytes(4096);
  expect(new RiscvIommu({}, { memory }).read(0, 8)).toBe(ALL_CAPABILITIES);
  expect(new RiscvIommu({ capabilities: 0x38_0000_0210n }, { memory }).read(0, 8)).toBe(0x38_0000_0210n);
});

test('the builder: all that there is but for what is named, each in its own bits', () => {
  expect(riscvCapabilities()).toBe(ALL_CAPABILITIES);
  expect(riscvCapabilities({ HPM: false })).toBe(ALL_CAPABILITIES & ~(1n << 30n));
  expect(riscvCapabilities({ PAS: 40, IGS: 0 })).toBe((ALL_CAPABILITIES & ~(0x3fn << 32n) & ~(3n << 28n)) | (40n << 32n));
  expect(() => riscvCapabilities({ Sv64: true } as never)).toThrow(/^riscvCapabilities: there is no Sv64$/);
  expect(() => riscvCapabilities({ IGS: 4 })).toThrow(/^riscvCapabilities: IGS 4 is not in 0\.\.3$/);
});

test('the masks that checks and walks use are those bits', () => {
  const low = (name: string) => CAPABILITIES.find((row) => row.name.toLowerCase().replace('_', '') === name.toLowerCase())?.bits[1];
  for (const [name, mask] of Object.entries(Cap))
    if (!name.startsWith('igs')) expect([name, mask]).toEqual([name, (1 << (low(name) ?? 0)) | 0]);
  for (const [name, mask] of Object.entries(CapHi)) if (name !== 'pas') expect([name, mask]).toEqual([name, 1 << ((low(name) ?? 0) - 32)]);
  expect([Cap.igs, CapHi.pas]).toEqual([3 << 28, 0x3f]);
});
