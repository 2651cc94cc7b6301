import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, test } from 'vitest';
import { type IvhdUnit, type IvrsDescription, ivrsTable } from '../../src/vmm/firmware/acpi/ivrs.ts';

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

/** iasl puts its own version where the creator stands, and a checksum to match. */
const withoutCreator = (bytes: Uint8Array) => [...bytes].map((byte, at) => (at === 9 || (at >= 28 && at < 36) ? 0 : byte));

/** What iasl makes of a table, as text; and what it makes of that text. */
function through(name: string, table: Uint8Array): { text: string; again: () => Uint8Array } {
  writeFileSync(join(folder, `${name}.dat`), table);
  run('-d', `${name}.dat`);
  const again = () => {
    run('-p', `${name}-again`, `${name}.dsl`);
    return readFileSync(join(folder, `${name}-again.aml`));
  };
  return { text: readFileSync(join(folder, `${name}.dsl`), 'latin1'), again };
}

const sizes = { physicalBits: 40, virtualBits: 48 } as const;
const device = { kind: 'select', device: 0x28 } as const;
const withDevices = (...devices: IvhdUnit['devices']): IvrsDescription => ({ ...sizes, units: [{ ...unit, devices }] });

test('IVHD 10h and 11h with every kind of entry, and IVMD: iasl reads them and makes the same bytes of them', () => {
  const table = ivrsTable({ ...sizes, units: [unit], memory });
  const { text, again } = through('ivrs', table);
  expect(text).not.toMatch(/unknown|invalid|incorrect|error/i);
  for (const name of ['Hardware Definition Block', 'Memory Definition Block']) expect(text).toContain(name);
  expect(withoutCreator(again())).toEqual(withoutCreator(table));
});

test.each<[string, IvrsDescription]>([
  ['all devices', withDevices({ kind: 'all', setting: 0xd7 })],
  ['a device, with the interrupts that pass', withDevices({ ...device, setting: 0xd7 })],
  ['a range', withDevices({ kind: 'range', first: 8, last: 0xffff, setting: 0x81 })],
  ['an alias', withDevices({ kind: 'alias', device: 0x100, alias: 0x108, setting: 1 })],
  ['an I/O APIC', withDevices({ kind: 'ioapic', handle: 255, device: 0xa0, setting: 0xd7 })],
  ['an HPET', withDevices({ kind: 'hpet', handle: 1, device: 0xa1, setting: 2 })],
  ['no devices', withDevices()],
  ['10h alone', { ...sizes, types: [0x10], units: [{ ...unit, efr: 0n }] }],
  ['11h alone', { ...sizes, types: [0x11], units: [unit] }],
  // iasl of 2020 takes EFR2 for reserved, and makes 0 of it.
  ['every feature', { ...sizes, units: [{ ...unit, efr: 2n ** 64n - 1n }] }],
  [
    'two units of two segments',
    { ...sizes, units: [unit, { ...unit, device: 0x19, segment: 0xffff, capability: 0xfc, registers: 0xffff_ffff_c000n }] },
  ],
  ['sizes of addresses', { physicalBits: 64, virtualBits: 64, units: [unit] }],
  ['IVMD of a range, read-only', { ...sizes, units: [unit], memory: [{ ...memory[0], devices: { first: 8, last: 0x10 }, write: false }] }],
  ['IVMD of all, write-only', { ...sizes, units: [unit], memory: [{ ...memory[0], read: false }] }],
  ['who made it', { ...sizes, units: [unit], maker: { oemId: 'VIOMMU', oemTableId: 'EVERYOPT', oemRevision: 7 } }],
])('%s: iasl reads it and makes the same bytes of it', (name, description) => {
  const table = ivrsTable(description);
  const { text, again } = through(name.replaceAll(/\W/g, '-'), table);
  expect(text).not.toMatch(/unknown|invalid|incorrect|error/i);
  expect(withoutCreator(again())).toEqual(withoutCreator(table));
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
