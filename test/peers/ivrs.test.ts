import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, test } from 'vitest';
import { type IvhdUnit, ivrsTable } from '../../src/vmm/firmware/acpi/ivrs.ts';

/* The IVRS builder against ACPICA's iasl (Debian: acpica-tools), which must be in PATH: taken apart and put together again. */

const folder = mkdtempSync(join(tmpdir(), 'viommu-iasl-'));
afterAll(() => rmSync(folder, { recursive: true }));

const run = (...args: string[]) => execFileSync('iasl', args, { cwd: folder, encoding: 'utf8', stdio: 'pipe' });

const unit: IvhdUnit = {
  device: 0x18,
  capability: 0x40,
  registers: 0xfeb8_0000n,
  efr: 0x1_0000_0000_0018n,
  devices: [
    { kind: 'all' },
    { kind: 'select', device: 0x28 },
    { kind: 'range', first: 0x30, last: 0x3f },
    { kind: 'alias', device: 0x100, alias: 0x108 },
    { kind: 'ioapic', handle: 0, device: 0xa0 },
    { kind: 'hpet', handle: 0, device: 0xa0 },
  ],
};
const memory = [
  { base: 0x7000_0000n, bytes: 0x2000n },
  { base: 0x7100_0000n, bytes: 0x1000n, devices: { first: 8, last: 8 } },
];

test('IVHD 10h and 11h with every kind of entry, and IVMD: iasl reads them and makes the same bytes of them', () => {
  const table = ivrsTable({ physicalBits: 40, virtualBits: 48, units: [unit], memory });
  writeFileSync(join(folder, 'ivrs.dat'), table);
  run('-d', 'ivrs.dat');
  const text = readFileSync(join(folder, 'ivrs.dsl'), 'latin1');
  expect(text).not.toMatch(/unknown|invalid|incorrect|error/i);
  for (const name of ['Hardware Definition Block', 'Memory Definition Block']) expect(text).toContain(name);
  run('-p', 'again', 'ivrs.dsl');
  const again = readFileSync(join(folder, 'again.aml'));
  // iasl puts its own version where the creator stands, and a checksum to match.
  const withoutCreator = (bytes: Uint8Array) => [...bytes].map((byte, at) => (at === 9 || (at >= 28 && at < 36) ? 0 : byte));
  expect(withoutCreator(again)).toEqual(withoutCreator(table));
});

test('40h: whatever iasl knows of it (2020 does not), it finds no fault with checksum and lengths', () => {
  const named = { kind: 'acpi', device: 0x98, hid: 'AMDI0020', uid: 'ID00' } as const;
  const table = ivrsTable({ physicalBits: 40, virtualBits: 48, units: [{ ...unit, devices: [...unit.devices, named] }], memory });
  writeFileSync(join(folder, 'all.dat'), table);
  execFileSync('iasl', ['-d', 'all.dat'], { cwd: folder, stdio: 'pipe' });
  const text = readFileSync(join(folder, 'all.dsl'), 'latin1');
  expect(text).toContain(`Table Length : ${table.length.toString(16).toUpperCase().padStart(8, '0')}`);
  expect(text).not.toMatch(/incorrect checksum/i);
});
