import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

/** Where the recorded guests lie, and in `conformance/` what reference models answer. */
export const traces = join(import.meta.dirname, '../recordings');

/** A folder of the process that runs the tests, which is more than one file's. */
export const folder = mkdtempSync(join(tmpdir(), 'viommu-replay-'));
process.once('exit', () => rmSync(folder, { recursive: true, force: true }));

let files = 0;

/** Writes a recording, an object or a text a line, and returns its file. */
export function recording(lines: readonly (object | string)[]): string {
  const file = join(folder, `${files++}.ndjson`);
  writeFileSync(file, lines.map((line) => (typeof line === 'string' ? line : JSON.stringify(line))).join('\n'));
  return file;
}
