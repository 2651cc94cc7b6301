import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, test } from 'vitest';
import { type ViotIommu, viotTable } from '../../src/vmm/firmware/acpi/viot.ts';

/* The VIOT builder against ACPICA's iasl (Debian: acpica-tools), which must be in PATH. */

const folder = mkdtempSync(join(tmpdir(), 'viommu-iasl-'));
afterAll(() => rmSync(folder, { recursive: true }));

test.each([
  ['pci', { kind: 'pci', device: 0x20 }],
  ['mmio', { kind: 'mmio', base: 0x1000_0000n }],
] as [string, ViotIommu][])('%s: whatever iasl knows of it (2020 does not), it finds no fault with checksum and length', (name, iommu) => {
  const table = viotTable({
    iommu,
    endpoints: [
      { kind: 'pci', first: 0x28, last: 0x30, endpoint: 0x28 },
      { kind: 'mmio', base: 0x2000_0000n, endpoint: 0x1_0000 },
    ],
  });
  writeFileSync(join(folder, `${name}.dat`), table);
  execFileSync('iasl', ['-d', `${name}.dat`], { cwd: folder, stdio: 'pipe' });
  const text = readFileSync(join(folder, `${name}.dsl`), 'latin1');
  expect(text).toContain(`Table Length : ${table.length.toString(16).toUpperCase().padStart(8, '0')}`);
  expect(text).not.toMatch(/incorrect checksum/i);
});
