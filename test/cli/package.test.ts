import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';

const root = join(import.meta.dirname, '../..');

test('what the package carries of documents links to nothing that it does not carry', () => {
  const { stdout } = spawnSync('npm', ['pack', '--dry-run', '--json', '--ignore-scripts'], { cwd: root, encoding: 'utf8' });
  const [{ files }] = JSON.parse(stdout) as [{ files: { path: string }[] }];
  const carried = new Set(files.map(({ path }) => path));
  const documents = [...carried].filter((path) => path.endsWith('.md'));
  expect(documents).toContain('README.md');
  const dead: string[] = [];
  for (const document of documents)
    for (const [, link] of readFileSync(join(root, document), 'utf8').matchAll(/\]\(([^)#\s]+)(?:#[^)]*)?\)/g)) {
      if (/^https?:/.test(link!)) continue;
      const path = join(document, '..', link!).replace(/\/$/, '');
      if (!carried.has(path) && ![...carried].some((file) => file.startsWith(`${path}/`))) dead.push(`${document}: ${link}`);
    }
  expect(dead).toEqual([]);
});
