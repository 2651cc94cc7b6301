import { spawn } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { shown } from '../../src/cli/demo.ts';
import { runCli } from './run-cli.ts';

const root = join(import.meta.dirname, '../..');
const { version, files } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'));

/** The command line as a process of its own, its output closed after the first piece. */
function firstPiece(...args: readonly string[]): Promise<{ status: number | null; err: string }> {
  const child = spawn(process.execPath, [join(root, 'node_modules/tsx/dist/cli.mjs'), join(root, 'src/cli/main.ts'), ...args], {
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let err = '';
  child.stderr.on('data', (text) => {
    err += text;
  });
  child.stdout.once('data', () => child.stdout.destroy());
  return new Promise((resolve) => child.on('close', (status) => resolve({ status, err })));
}

describe('the command line', () => {
  test('help lists every command, and explains each with all its options', async () => {
    const { status, out } = await runCli('--help');
    expect(status).toBe(0);
    const names = [...out.split('Commands:')[1].matchAll(/^ {2}([a-z]+) {2,}/gm)].map(([, name]) => name).filter((name) => name !== 'help');
    expect(names).toEqual(expect.arrayContaining(['demo', 'replay', 'conformance']));
    for (const line of out.split('\n')) expect(line.length).toBeLessThanOrEqual(80);
    for (const name of names) {
      const help = await runCli(name, '--help');
      expect(help.status).toBe(0);
      expect(help.out).toContain('--json');
      for (const line of help.out.split('\n')) expect(line.length).toBeLessThanOrEqual(80);
      expect((await runCli('help', name)).out).toBe(help.out);
    }
  });

  test('--version is that of the package', async () => {
    expect(await runCli('--version')).toEqual({ status: 0, out: version, err: '' });
  });

  test('an installed package carries the guests that demo shows on every path', () => {
    expect(files).toEqual(expect.arrayContaining(shown.map(({ guest }) => `test/recordings/${guest}.ndjson.gz`)));
  });

  test('no command: the help on standard error, status 2', async () => {
    const { status, out, err } = await runCli();
    expect([status, out]).toEqual([2, '']);
    expect(err).toContain('Usage: viommu');
  });

  test('misuse with --json is one object too', async () => {
    const { status, out, err } = await runCli('replay', '--json');
    expect(status).toBe(2);
    expect(JSON.parse(out)).toEqual({ error: "missing required argument 'FILE'" });
    expect(err).toBe("viommu replay: missing required argument 'FILE'");
  });

  test('help and version with --json are one object too, of every command alike', async () => {
    const names = [...(await runCli('--help')).out.matchAll(/^ {2}([a-z]+) {2,}/gm)]
      .map(([, name]) => name)
      .filter((name) => name !== 'help');
    for (const args of [['--help'], ['--version'], ...names.map((name) => [name, '--help'])]) {
      const plain = await runCli(...args);
      const { status, out, err } = await runCli(...args, '--json');
      expect({ status, err }).toEqual({ status: 0, err: '' });
      expect(JSON.parse(out)).toEqual({ text: plain.out });
    }
  });

  test('a reader that has seen enough ends it quietly', async () => {
    expect(await firstPiece('--help')).toMatchObject({ err: '' });
  });
});
