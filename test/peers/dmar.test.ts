import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, test } from 'vitest';
import { type DmarDescription, dmarTable } from '../../src/vmm/firmware/acpi/dmar.ts';

/* The DMAR builder against ACPICA's iasl (Debian: acpica-tools), which must be in PATH: taken apart and put together again. */

const folder = mkdtempSync(join(tmpdir(), 'viommu-iasl-'));
afterAll(() => rmSync(folder, { recursive: true }));

/** What iasl says of a table, and the table that it makes of what it said. */
function throughIasl(table: Uint8Array): { text: string; again: Uint8Array } {
  const run = (...args: string[]) => execFileSync('iasl', args, { cwd: folder, encoding: 'utf8', stdio: 'pipe' });
  writeFileSync(join(folder, 'dmar.dat'), table);
  run('-d', 'dmar.dat');
  const text = readFileSync(join(folder, 'dmar.dsl'), 'latin1');
  run('-p', 'again', 'dmar.dsl');
  return { text, again: readFileSync(join(folder, 'again.aml')) };
}

const endpoint = { kind: 'endpoint', startBus: 0, path: [{ device: 5, function: 1 }] } as const;
const description: DmarDescription = {
  hostAddressWidth: 48,
  interruptRemapping: true,
  units: [
    { registers: 0xfed9_2000n, scope: [endpoint, { ...endpoint, kind: 'bridge', path: [...endpoint.path, ...endpoint.path] }] },
    {
      registers: 0xfed9_0000n,
      includeAll: true,
      scope: [
        { ...endpoint, kind: 'ioapic', enumerationId: 2, startBus: 0xf0, path: [{ device: 31, function: 7 }] },
        { ...endpoint, kind: 'hpet', enumerationId: 1 },
      ],
    },
  ],
  reservedMemory: [{ base: 0x7000_0000n, limit: 0x7000_ffffn, scope: [endpoint] }],
  atsPorts: [{ scope: [{ ...endpoint, kind: 'bridge' }] }, { segment: 1, allPorts: true }],
  affinities: [{ registers: 0xfed9_0000n, proximityDomain: 1 }],
  namespaceDevices: [{ deviceNumber: 4, objectName: '\\_SB.PCI0.I2C0' }],
};

test('DRHD, RMRR, ATSR, RHSA, ANDD and all scopes: iasl reads them and makes the same bytes of them', () => {
  const table = dmarTable(description);
  const { text, again } = throughIasl(table);
  expect(text).not.toMatch(/unknown|invalid|incorrect|error/i);
  for (const name of [
    'Hardware Unit Definition',
    'Reserved Memory Region',
    'Root Port ATS Capability',
    'IOAPIC Device',
    'Message-capable HPET',
    'Remapping Hardware Static Affinity',
    'ACPI Namespace Device Declaration',
  ])
    expect(text).toContain(name);
  // iasl puts its own version where the creator stands, and a checksum to match.
  const withoutCreator = (bytes: Uint8Array) => [...bytes].map((byte, at) => (at === 9 || (at >= 28 && at < 36) ? 0 : byte));
  expect(withoutCreator(again)).toEqual(withoutCreator(table));
});

test('SATC and SIDP: whatever iasl knows of them, it finds no fault with checksum and lengths', () => {
  const table = dmarTable({
    ...description,
    translationCaches: [{ scope: [endpoint] }],
    properties: [{ scope: [{ ...endpoint, flags: 0x18 }] }],
  });
  writeFileSync(join(folder, 'all.dat'), table);
  execFileSync('iasl', ['-d', 'all.dat'], { cwd: folder, stdio: 'pipe' });
  const text = readFileSync(join(folder, 'all.dsl'), 'latin1');
  expect(text).toContain(`Table Length : ${table.length.toString(16).toUpperCase().padStart(8, '0')}`);
  expect(text).not.toMatch(/incorrect checksum/i);
});
