import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, test } from 'vitest';
import { iortTable } from '../../src/vmm/firmware/acpi/iort.ts';

/* The IORT builder against ACPICA's iasl (Debian: acpica-tools), which must be in PATH: taken apart and put together again. */

const folder = mkdtempSync(join(tmpdir(), 'viommu-iasl-'));
afterAll(() => rmSync(folder, { recursive: true }));

const run = (...args: string[]) => execFileSync('iasl', args, { cwd: folder, encoding: 'utf8', stdio: 'pipe' });
const all = { first: 0, count: 0x1_0000, output: 0 };

test('ITS group, SMMUv3, root complex, reserved memory: iasl reads them, and what it knows of (2020: no reserved memory) it makes again', () => {
  const smmu = { registers: 0x905_0000n, event: 106, its: 0, messages: [all], ownDevice: 0x1_0000 };
  const root = { segment: 0, smmu: 0, streams: [all], ats: true };
  const table = iortTable({ its: [{ its: [0] }], smmus: [smmu], roots: [root] });
  writeFileSync(join(folder, 'iort.dat'), table);
  run('-d', 'iort.dat');
  const text = readFileSync(join(folder, 'iort.dsl'), 'latin1');
  expect(text).not.toMatch(/unknown|invalid|incorrect|error/i);
  expect(text).toMatch(/Base Address : 0000000009050000/);
  run('-p', 'again', 'iort.dsl');
  const again = readFileSync(join(folder, 'again.aml'));
  // iasl puts its own version where the creator stands, and a checksum to match.
  const withoutCreator = (bytes: Uint8Array) => [...bytes].map((byte, at) => (at === 9 || (at >= 28 && at < 36) ? 0 : byte));
  expect(withoutCreator(again)).toEqual(withoutCreator(table));
});
