import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll } from 'vitest';

/** Where the recorded guests lie, and in `conformance/` what reference models answer. */
export const traces = join(import.meta.dirname, '../recordings');

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
