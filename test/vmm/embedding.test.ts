import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { expect, test } from 'vitest';

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

test('the embedding in the README is 20 lines or fewer and does what it says', () => {
  const readme = readFileSync(join(root, 'README.md'), 'utf8');
  const code = /<!-- embedding -->\n```ts\n([\s\S]*?)```/.exec(readme)?.[1] ?? '';
  expect(code.split('\n').filter((line) => line.trim() !== '').length).toBeLessThanOrEqual(20);
  const folder = mkdtempSync(join(tmpdir(), 'viommu-embedding-'));
  try {
    const file = join(folder, 'embedding.mts');
    writeFileSync(
      file,
      code.replace(/'(viommu[^']*)'(?=;)/g, (_, specifier: string) => `'${sourceOf(specifier)}'`),
    );
    const printed = execFileSync(process.execPath, ['--import', 'tsx', file], { cwd: root, encoding: 'utf8' });
    // H_SUCCESS, a DMA without fault, and one endpoint of each kind.
    expect(printed).toMatch(/^0 0 \{/);
    expect(printed).toContain("path: 'shadow'");
    expect(printed).toContain("path: 'emulated'");
  } finally {
    rmSync(folder, { recursive: true });
  }
});
