import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest';
import { useLabQemu } from './lab.ts';

/*
 * `viommu boot` told to end while Linux runs on our IOMMU: nothing of it is left. test/cli/boot.test.ts does the same with a program in
 * QEMU's place, that has no sockets open and no guest.
 */

const folder = mkdtempSync(join(tmpdir(), 'viommu-signals-'));
let restore = () => {};
let running: ChildProcess | null = null;
beforeAll(() => {
  restore = useLabQemu();
});
afterEach(() => running?.kill('SIGTERM'));
afterAll(() => {
  restore();
  rmSync(folder, { recursive: true, force: true });
});

/** The guest writes to its disk. */
const AT_WORK = /viommu: check mount ok/;

test.each([
  ['SIGINT', 130],
  ['SIGTERM', 143],
  ['SIGHUP', 129],
] as const)('%s: no process, no socket and no file is left', async (signal, status) => {
  const main = join(import.meta.dirname, '../../src/cli/main.ts');
  const env = { ...process.env, TMPDIR: folder };
  const child = spawn(process.execPath, ['--import', 'tsx', main, 'boot', '--console'], { env, stdio: ['ignore', 'ignore', 'pipe'] });
  running = child;
  const ended = once(child, 'exit');
  await saidBy(child, AT_WORK);
  const below = descendantsOf(child.pid!);
  const made = readdirSync(folder).filter((name) => name.startsWith('viommu-boot-'));
  expect([below.filter((pid) => commandOf(pid).includes('qemu-system-')).length, made.length]).toEqual([1, 1]);
  expect(readdirSync(join(folder, made[0]!))).toEqual(expect.arrayContaining(['disk', 'disk.sock', 'registers.sock']));
  child.kill(signal);
  expect((await ended)[0]).toBe(status);
  await expect.poll(() => below.filter((pid) => existsSync(`/proc/${pid}`)), { timeout: 10_000 }).toEqual([]);
  expect(readdirSync(folder).filter((name) => name.startsWith('viommu-'))).toEqual([]);
});

async function saidBy(child: ChildProcess, wanted: RegExp): Promise<void> {
  const lines: string[] = [];
  for await (const line of createInterface({ input: child.stderr! })) {
    lines.push(line);
    if (!wanted.test(line)) continue;
    // Whoever writes to nobody would wait, or end for that.
    child.stderr!.resume();
    return;
  }
  throw new Error(`it ended before it said ${wanted.source}:\n${lines.slice(-40).join('\n')}`);
}

/** Its children, and theirs. */
function descendantsOf(pid: number): number[] {
  const children = readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8').trim().split(' ').filter(Boolean).map(Number);
  return children.flatMap((one) => [one, ...descendantsOf(one)]);
}

function commandOf(pid: number): string {
  return readFileSync(`/proc/${pid}/cmdline`, 'utf8');
}
