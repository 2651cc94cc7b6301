import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, test } from 'vitest';
import { iortTable } from '../../src/vmm/firmware/acpi/iort.ts';

/*
 * The IORT builder against ACPICA's iasl (Debian: acpica-tools), which must be in PATH: taken apart and put together again. That of 2020
 * (Debian 12 and 13: 20200925) does not know reserved memory (DEN0049E); later ones are shown it too.
 */

const folder = mkdtempSync(join(tmpdir(), 'viommu-iasl-'));
afterAll(() => rmSync(folder, { recursive: true }));

const run = (...args: string[]) => execFileSync('iasl', args, { cwd: folder, encoding: 'utf8', stdio: 'pipe' });
const KNOWS_RESERVED = 2021_01_05;
const version = Number(run('-v').match(/version (\d{8})/)?.[1]);
const knowsReserved = version >= KNOWS_RESERVED;
const all = { first: 0, count: 0x1_0000, output: 0 };

test(`ITS group, SMMUv3, root complex${knowsReserved ? ', reserved memory' : ''}: iasl ${version} reads them, and makes them again`, () => {
  const smmu = { registers: 0x905_0000n, vatos: 0x907_0000n, event: 106, its: 0, messages: [all], ownDevice: 0x1_0000 };
  const root = { segment: 0, smmu: 0, streams: [all], ats: true };
  const ranges = [
    { base: 0x800_0000n, bytes: 0x10_0000n },
    { base: 0x900_0000n, bytes: 0x1_0000n },
  ];
  const memory = { smmu: 0, streams: { first: 0x28, count: 1, output: 0x28 }, ranges, remappable: true };
  const table = iortTable({ its: [{ its: [0] }], smmus: [smmu], roots: [root], reserved: knowsReserved ? [memory] : [] });
  writeFileSync(join(folder, 'iort.dat'), table);
  run('-d', 'iort.dat');
  const text = readFileSync(join(folder, 'iort.dsl'), 'latin1');
  expect(text).not.toMatch(/unknown|invalid|incorrect|error/i);
  expect(text).toMatch(/Base Address : 0000000009050000/);
  expect(text).toMatch(/VATOS Address : 0000000009070000/);
  if (knowsReserved) {
    expect([...text.matchAll(/(?:Base Address|Length) of RMR : (\w+)/g)].map(([, value]) => BigInt(`0x${value}`))).toEqual(
      ranges.flatMap(({ base, bytes }) => [base, bytes]),
    );
    expect(text).toMatch(/Remapping Permitted : 1/);
  }
  run('-p', 'again', 'iort.dsl');
  const again = readFileSync(join(folder, 'again.aml'));
  // iasl puts its own version where the creator stands, and a checksum to match; that of 2020 takes identifiers of nodes for reserved.
  const compared = (bytes: Uint8Array) => {
    const copy = Uint8Array.from(bytes).fill(0, 9, 10).fill(0, 28, 36);
    if (!knowsReserved) for (let at = 48; at < copy.length; at += copy[at + 1] + 256 * copy[at + 2]) copy.fill(0, at + 4, at + 8);
    return [...copy];
  };
  expect(compared(again)).toEqual(compared(table));
});
