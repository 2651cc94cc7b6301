import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { gunzipSync } from 'node:zlib';
import { describe, expect, test } from 'vitest';
import { folder } from './recordings.ts';
import { runCli } from './run-cli.ts';

const recorded = join(import.meta.dirname, '../recordings/conformance/riscv-iommu-reference-model.ndjson.gz');

describe("the RISC-V reference model's own tests", () => {
  test('30 of 30, nothing wrong', async () => {
    const { status, out } = await runCli('conformance', 'riscv', recorded, '--json');
    const result = JSON.parse(out);
    expect(status).toBe(0);
    expect(result).toMatchObject({ passed: 30, failed: 0 });
    expect(result.tests.map(({ n }: { n: number }) => n)).toEqual(Array.from({ length: 30 }, (_, i) => i + 1));
    for (const row of result.tests) expect(row).toMatchObject({ wrong: 0, name: expect.any(String), checked: expect.any(Number) });
    // What caches may answer differently is five lines, no more (src/cli/conformance/excuses.ts).
    expect(result.tests.reduce((sum: number, { excused }: { excused: number }) => sum + excused, 0)).toBeLessThanOrEqual(5);
  });

  test('another answer of the model is a wrong one, in its test', async () => {
    const lines = gunzipSync(readFileSync(recorded)).toString().split('\n');
    const xlate = lines.findIndex((line, i) => i > 6000 && line.includes('"op":"xlate"') && line.includes('"status":0'));
    const tests = lines.slice(0, xlate).filter((line) => line.includes('"op":"test"')).length;
    lines[xlate] = lines[xlate].replace(/"status":0/, '"status":4');
    const file = join(folder, 'changed.ndjson');
    writeFileSync(file, lines.join('\n'));
    const { status, out } = await runCli('conformance', 'riscv', file, '--json');
    const result = JSON.parse(out);
    expect(status).toBe(1);
    expect(result).toMatchObject({ passed: 29, failed: 1 });
    expect(result.tests[tests - 1].wrong).toBeGreaterThan(0);
  });
});

test('a recording without a test is refused: nothing compared is nothing right', async () => {
  const { status, out, err } = await runCli('conformance', 'riscv', '/dev/null', '--json');
  expect(status).toBe(1);
  expect(err).toBe('viommu conformance: /dev/null:1: holds no test');
  expect(JSON.parse(out)).toEqual({ error: '/dev/null:1: holds no test' });
});

test.each([
  [['conformance'], "missing required argument 'target'"],
  [['conformance', 'vax', 'x'], 'Allowed choices are riscv'],
  [['conformance', 'riscv', 'nowhere.gz'], 'ENOENT'],
  [['conformance', 'riscv', folder], 'is no file'],
])('misuse ends with status 2 and one line: %j', async (args, what) => {
  const { status, err } = await runCli(...args);
  expect(status).toBe(2);
  expect(err).toContain(what);
  expect(err.split('\n')).toHaveLength(1);
});
