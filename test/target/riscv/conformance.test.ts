import { join } from 'node:path';
import { expect, test } from 'vitest';
import { folder, recording } from '../../cli/recordings.ts';
import { runCli } from '../../cli/run-cli.ts';

/** The specification's own reference model, recorded (README.md there). */
const RECORDINGS = join(import.meta.dirname, '../../recordings/conformance');

async function run(...args: string[]): Promise<{ status: number; out: string[]; err: string }> {
  const { status, out, err } = await runCli('conformance', ...args);
  return { status, out: out.split('\n'), err };
}

const RESET = {
  op: 'reset',
  numHpm: 8,
  hpmctrBits: 40,
  eventIdLimit: 255,
  numVecBits: 3,
  resetIommuMode: 0,
  maxIommuMode: 4,
  gxlWriteable: 0,
  fctlBeWriteable: 0,
  capabilities: '0x1f2c7ee4e10',
  fctl: '0x0',
};
const TEST = { op: 'test', n: 1, name: 'one' };

async function judged(file: string): Promise<{ status: number; passed: number; failed: number; sum: (field: Sum) => number }> {
  const { status, out } = await run('riscv', join(RECORDINGS, file), '--json');
  const { tests, passed, failed } = JSON.parse(out[0]);
  return { status, passed, failed, sum: (field) => tests.reduce((total: number, row: Record<Sum, number>) => total + row[field], 0) };
}
type Sum = 'checked' | 'wrong' | 'excused';

test('the 30 tests of the reference model: none wrong, five comparisons excused', async () => {
  const { status, passed, failed, sum } = await judged('riscv-iommu-reference-model.ndjson.gz');
  expect({ status, passed, failed }).toEqual({ status: 0, passed: 30, failed: 0 });
  expect([sum('wrong'), sum('excused')]).toEqual([0, 5]);
  expect(sum('checked')).toBeGreaterThan(30_000);
}, 60_000);

test('599 random programs of the reference model: every answer as its', async () => {
  const { status, passed, failed, sum } = await judged('riscv-iommu-random.ndjson.gz');
  expect({ status, passed, failed }).toEqual({ status: 0, passed: 599, failed: 0 });
  expect([sum('wrong'), sum('excused')]).toEqual([0, 0]);
  expect(sum('checked')).toBeGreaterThan(100_000);
}, 60_000);

test.each([
  [10, "MSI_TRANS step 13: the second doubleword of an entry in basic translate mode is software's"],
  [12, 'P2IOVA steps 8 and 9 come before 14: a translated request with a process_id does not walk the process directory'],
  [58, 'DC.tc.SXL 1: a guest-physical address above 34 bits is a guest-page fault, whatever iohgatp.MODE has'],
  [525, "P2IOVA step 11 comes before 14: with DPE, the walk of the process directory counts as process_id 0's"],
  [600, "the directory walks of a page request count as its own device's"],
])('reduced program %i: %s', async (n) => {
  expect(await judged(`riscv-cases/fail-${n}.ndjson`)).toMatchObject({ status: 0, passed: 1, failed: 0 });
});

test('a wrong register, a fault record that is not there, and one that is not expected are each wrong', async () => {
  const lines = [
    RESET,
    TEST,
    { op: 'regr', off: 0, size: 8, val: '0x1f2c7ee4e10' },
    { op: 'regr', off: 8, size: 4, val: '0x7' },
    { op: 'memout', addr: '0x4000', hex: '0001000008452301' },
    { op: 'regw', off: 40, size: 8, val: '0x1009' },
    { op: 'regw', off: 76, size: 4, val: '0x3' },
    { op: 'xlate', did: 1, pv: 0, pid: 0, noWrite: 0, exec: 0, priv: 0, cxl: 0, at: 0, iova: '0x1000', len: 4, write: 0, status: 1 },
  ];
  const { status, out } = await run('riscv', recording(lines), '--json');
  // The fault record has two doublewords that are not zero.
  expect(JSON.parse(out[0]).tests).toEqual([{ n: 1, name: 'one', checked: 6, wrong: 4, excused: 0 }]);
  expect(status).toBe(1);
});

test.each([
  ['an unknown operation', [RESET, { op: 'frobnicate' }], 2],
  ['a field of the wrong kind', [RESET, TEST, { op: 'regr', off: 'zero', size: 4, val: '0x0' }], 3],
  ['no reset', [TEST, { op: 'processCommands' }], 2],
  ['what is no line at all', [RESET, 'nonsense'], 2],
])('%s is refused with file and line', async (_, lines, line) => {
  const file = recording(lines as (object | string)[]);
  const { status, err } = await run('riscv', file);
  expect(status).toBe(1);
  expect(err).toContain(`viommu conformance: ${file}:${line}:`);
});

test('misuse', async () => {
  expect(await run('riscv')).toMatchObject({ status: 2, err: "viommu conformance: missing required argument 'FILE'" });
  expect((await run('riscv', join(folder, 'nothing'))).err).toContain('cannot be read: ENOENT');
});
