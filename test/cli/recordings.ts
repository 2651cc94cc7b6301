import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { afterAll, beforeEach } from 'vitest';

/** Where the recorded Linux guests lie: beside the repository. */
export const traces = join(import.meta.dirname, '../../../shared/traces');

/** Skips the tests around it where the file or folder is not there, and says so. */
export function skipWithout(path: string): void {
  beforeEach((context) => {
    if (!existsSync(path)) context.skip(`${basename(path)} is not there: the recordings lie beside the checkout, in ../shared`);
  });
}

/** A folder of the test file that uses it. */
export const folder = mkdtempSync(join(tmpdir(), 'viommu-replay-'));
afterAll(() => rmSync(folder, { recursive: true }));

let files = 0;

/** Writes a recording, an object or a text a line, and returns its file. */
export function recording(lines: readonly (object | string)[]): string {
  const file = join(folder, `${files++}.ndjson`);
  writeFileSync(file, lines.map((line) => (typeof line === 'string' ? line : JSON.stringify(line))).join('\n'));
  return file;
}
