import { spawn } from 'node:child_process';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { runCli } from './run-cli.ts';

const root = join(import.meta.dirname, '../..');
const RECORDING = 'test/recordings/pseries-linux-6.12-ddw-64k.ndjson.gz';

/** What is typed, in this order. */
const session: readonly string[] = [
  '',
  '--help',
  'demo --help',
  'replay --help',
  'matrix --help',
  'explain --help',
  'conformance --help',
  'boot --help',
  'bench --help',
  'qtest --help',
  'help explain',
  'help matrx',
  'help matrx --json',
  'matrx',
  'matrix now',
  'matrix --colour',
  'explain',
  'explain pdp11',
  'explain pdp11 --json',
  'explain vtd vfio-type2',
  'explain vtd --host-hw vax',
  'replay nothing.ndjson',
  'replay nothing.ndjson --json',
  'replay src',
  `replay ${RECORDING} --path teleport`,
  'conformance riscv nothing.gz',
  'boot --kernel src',
  'boot --module src',
  'matrix',
  'explain vtd-scalable iommufd --host-hw vtd',
  'explain spapr vfio-type1',
  'explain spapr vfio-type1 --json',
  'explain riscv vfio-spapr-tce',
  'explain amd iommufd --path user-owned',
];

/** Each command, what it wrote on either stream, and its status, as a terminal of 80 columns had it. */
async function transcript(): Promise<string> {
  const lines: string[] = [];
  for (const typed of session) {
    const { status, out, err } = await runCli(...typed.split(' ').filter((word) => word !== ''));
    lines.push(`$ viommu${typed === '' ? '' : ` ${typed}`}`);
    if (out !== '') lines.push(out);
    for (const line of err === '' ? [] : err.split('\n')) lines.push(`! ${line}`);
    lines.push(`[${status}]`, '');
  }
  return lines.join('\n');
}

describe('the command line, as typed', () => {
  test('help, misuse and answers are what test/cli/transcript.txt has', async () => {
    await expect(await transcript()).toMatchFileSnapshot('transcript.txt');
  });

  test('nothing is wider than 80 columns but JSON, nothing is coloured, and what was called wrongly says so in one line', async () => {
    for (const typed of session) {
      const { status, out, err } = await runCli(...typed.split(' ').filter((word) => word !== ''));
      const json = typed.includes('--json');
      for (const line of json ? [] : out.split('\n')) expect(line.length, line).toBeLessThanOrEqual(80);
      expect(out + err).not.toContain('\x1b');
      if (json) expect(out.split('\n')).toHaveLength(1);
      if (json) expect(() => JSON.parse(out)).not.toThrow();
      if (status === 2 && typed !== '') expect(err.split('\n')).toHaveLength(1);
      expect([0, 1, 2]).toContain(status);
    }
  });

  test('a terminal of 60 columns: tables give way', async () => {
    const { table } = await import('../../src/cli/table.ts');
    for (const line of table(['a long heading of the first column', 'b'], [['x'.repeat(80), 1_000_000]], 60))
      expect(line.length).toBeLessThanOrEqual(60);
  });
});

/** The command line as a process of its own. */
function started(...args: readonly string[]) {
  const child = spawn(process.execPath, ['--import', 'tsx', join(root, 'src/cli/main.ts'), ...args], {
    cwd: root,
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let err = '';
  child.stderr.on('data', (text) => {
    err += text;
  });
  const ended = new Promise<{ status: number | null; signal: string | null; err: string }>((resolve) =>
    child.on('close', (status, signal) => resolve({ status, signal, err })),
  );
  return { child, ended };
}

describe('the command line, as a process', () => {
  test.each([['matrix'], ['explain', 'vtd'], ['replay', '--help']])('%s | head -1 ends quietly', async (...args) => {
    const { child, ended } = started(...args);
    child.stdout.once('data', () => child.stdout.destroy());
    expect(await ended).toMatchObject({ err: '', signal: null });
  });

  test('Ctrl-C ends it at once, with the status that shells give and nothing on standard error', async () => {
    const { child, ended } = started('replay', 'test/recordings/virtio-iommu-linux-6.12.ndjson.gz');
    // It is at work once its modules are loaded; before that Node ends by itself, which is not what is meant.
    const interrupted = setInterval(() => child.kill('SIGINT'), 1500);
    child.stdout.resume();
    const { status, signal, err } = await ended;
    clearInterval(interrupted);
    expect(err).toBe('');
    // 0: it was done before.
    expect([0, 130]).toContain(status ?? (signal === 'SIGINT' ? 130 : -1));
  });

  test('what is not there is one line: the kernel’s IOMMU, without a device to test with', async () => {
    const { child, ended } = started('replay', RECORDING, '--port', 'kernel');
    child.stdout.resume();
    const { status, err } = await ended;
    if (status === 0) return; // A machine with the lab's device.
    expect(err.trimEnd().split('\n')).toHaveLength(1);
    expect(err).toMatch(/^viommu replay: \S.+/);
  });
});
