import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdtempSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { expect, test } from 'vitest';
import { Client } from './vfio-user/client.ts';

const root = join(import.meta.dirname, '../..');

/** `viommu/host/sim` as the exports map of package.json resolves it, but to the source instead of what was built of it. */
function sourceOf(specifier: string): string {
  const { exports } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'));
  const entry = `.${specifier.slice('viommu'.length)}`;
  for (const [pattern, target] of Object.entries<{ default: string }>(exports)) {
    const [before, after] = pattern.split('*');
    const matches = after === undefined ? entry === pattern : entry.startsWith(before) && entry.endsWith(after);
    if (!matches) continue;
    const part = entry.slice(before.length, entry.length - (after ?? '').length);
    return pathToFileURL(join(root, target.default.replace('*', part).replace('./dist/', 'src/').replace(/\.js$/, '.ts'))).href;
  }
  throw new Error(`package.json exports no ${specifier}`);
}

/** The code with what it imports of the package taken from the source. */
function ofSource(code: string): string {
  return code.replace(/'(viommu[^']*)'(?=;)/g, (_, specifier: string) => `'${sourceOf(specifier)}'`);
}

test('the embedding in the README is 20 lines or fewer and does what it says', () => {
  const readme = readFileSync(join(root, 'README.md'), 'utf8');
  const code = /<!-- embedding -->\n```ts\n([\s\S]*?)```/.exec(readme)?.[1] ?? '';
  expect(code.split('\n').filter((line) => line.trim() !== '').length).toBeLessThanOrEqual(20);
  const folder = mkdtempSync(join(tmpdir(), 'viommu-embedding-'));
  try {
    const file = join(folder, 'embedding.mts');
    writeFileSync(file, ofSource(code));
    const printed = execFileSync(process.execPath, ['--import', 'tsx', file], { cwd: root, encoding: 'utf8' });
    // H_SUCCESS, a DMA without fault, and one endpoint of each kind.
    expect(printed).toMatch(/^0 0 \{/);
    expect(printed).toContain("path: 'shadow'");
    expect(printed).toContain("path: 'emulated'");
  } finally {
    rmSync(folder, { recursive: true });
  }
});

test('the VMM of docs/guests.md serves its functions, and writes the table that names them', async () => {
  const code = /```js\n([\s\S]*?)```/.exec(readFileSync(join(root, 'docs/guests.md'), 'utf8'))?.[1] ?? '';
  const folder = mkdtempSync(join(tmpdir(), 'viommu-vmm-'));
  const file = join(folder, 'vmm.mjs');
  writeFileSync(file, ofSource(code));
  writeFileSync(join(folder, 'disk.img'), '');
  truncateSync(join(folder, 'disk.img'), 16 << 20);
  const tsx = pathToFileURL(createRequire(import.meta.url).resolve('tsx')).href;
  const child = spawn(process.execPath, ['--import', tsx, file], { cwd: folder, stdio: ['ignore', 'inherit', 'inherit'] });
  try {
    // The last that it does.
    await expect.poll(() => existsSync(join(folder, 'dmar.bin')), { timeout: 60_000, interval: 100 }).toBe(true);
    const [unit, disk] = [await Client.greeted(join(folder, 'unit.sock')), await Client.greeted(join(folder, 'disk.sock'))];
    expect(await disk.readRegion(7, 0, 4)).toEqual([0xf4, 0x1a, 0x42, 0x10]);
    // VER_REG, once the BAR is there; the function is gone when its registers were used.
    await unit.writeRegion(7, 4, [2, 0]);
    expect((await unit.readRegion(7, 0, 2)).every((byte) => byte === 0xff)).toBe(false);
    expect(await unit.readRegion(0, 0, 4)).toEqual([0x10, 0, 0, 0]);
    expect(await unit.readRegion(7, 0, 2)).toEqual([0xff, 0xff]);
    for (const client of [unit, disk]) client.close();
    expect(readFileSync(join(folder, 'dmar.bin')).toString('latin1', 0, 4)).toBe('DMAR');
  } finally {
    const ended = once(child, 'exit');
    child.kill('SIGKILL');
    await ended;
    rmSync(folder, { recursive: true });
  }
});
