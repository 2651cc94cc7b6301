import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, test } from 'vitest';
import { UsageError } from '../../src/cli/command.ts';
import { requireOutputFile } from '../../src/cli/output-file.ts';
import { runCli } from './run-cli.ts';

const folder = mkdtempSync(join(tmpdir(), 'viommu-output-file-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

test('a file in a folder that is there may be written, new or again; nothing is made', () => {
  const file = join(folder, 'file');
  expect(() => requireOutputFile('--html', file)).not.toThrow();
  expect(() => requireOutputFile('--html', 'beside')).not.toThrow();
  writeFileSync(file, '');
  expect(() => requireOutputFile('--html', file)).not.toThrow();
  // A file is no folder.
  expect(() => requireOutputFile('--html', join(file, 'page'))).toThrow(UsageError);
});

test.each([
  ['', "--html '' is no file"],
  [folder, `--html '${folder}' is no file`],
  [join(folder, 'nosuch/page'), `--html ${join(folder, 'nosuch/page')}: there is no folder ${join(folder, 'nosuch')}`],
])('%j is misuse', (file, message) => {
  expect(() => requireOutputFile('--html', file)).toThrow(new UsageError(message));
});

test('boot says it before it makes anything', async () => {
  const file = join(folder, 'nosuch/boot.ndjson');
  expect(await runCli('boot', '--record', file)).toEqual({
    status: 2,
    out: '',
    err: `viommu boot: --record ${file}: there is no folder ${join(folder, 'nosuch')}`,
  });
});
