import { execFile } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { availableParallelism, homedir, tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { promisify } from 'node:util';
import { DmaDevice } from './dma-device.ts';

/*
 * Boots the lab's small VM, with a real kernel and an emulated IOMMU, and runs tests in it with this checkout's own vitest.
 */

const run = promisify(execFile);
const root = resolve(import.meta.dirname, '../..');

/** The IOMMUs that QEMU emulates for the VM. */
export const iommus = ['vtd', 'amd', 'virtio'] as const;
export type Iommu = (typeof iommus)[number];

/** One test of the VM. */
interface VmTest {
  readonly fullName: string;
  readonly status: 'passed' | 'failed' | 'skipped' | 'pending' | 'todo';
  readonly failureMessages: readonly string[];
}

/** What the tests of one file in the VM came to. */
export interface VmFile {
  readonly name: string;
  readonly passed: number;
  readonly skipped: readonly string[];
  readonly failures: readonly string[];
}

/** The lab's programs (README.md there). */
export const lab = join(root, 'test/lab');

/** Sets QEMU up, once. @throws Error with what the script says when it cannot be. */
export async function openLab(): Promise<void> {
  const script = join(lab, 'setup-qemu');
  await run(script, { timeout: 600_000 }).catch((error) => {
    throw new Error(`${script}: ${error.stderr || error.message}`, { cause: error });
  });
}

/** What the VM mounts anew over this machine's files. */
const FRESH = ['/tmp/', '/run/', '/mnt/'];
let shown: Promise<string> | null = null;

/** The checkout as the VM sees it: itself, or a copy (hard links where they can be) when it lies where the VM has something else. */
function shownRoot(): Promise<string> {
  shown ??= FRESH.some((folder) => `${root}/`.startsWith(folder)) ? copyOfCheckout() : Promise.resolve(root);
  return shown;
}

/** Takes away what was made to show the checkout. */
export async function closeLab(): Promise<void> {
  const copy = await shown;
  shown = null;
  if (copy !== null && copy !== root) rmSync(copy, { recursive: true, force: true });
}

async function copyOfCheckout(): Promise<string> {
  const cache = process.env['VIOMMU_LAB'] ?? join(homedir(), '.cache/viommu-lab');
  mkdirSync(cache, { recursive: true });
  const copy = mkdtempSync(join(cache, 'checkout-'));
  const parts = ['src', 'test', 'examples', 'bench', 'node_modules', 'package.json', 'tsconfig.json'].map((part) => join(root, part));
  await run('cp', ['-rl', ...parts, copy]).catch(() => run('cp', ['-r', ...parts, copy]));
  return copy;
}

/** Virtual machines that run at one time; each keeps about one processor busy. */
const slots = Math.max(1, Math.min(availableParallelism(), 4));
let running = 0;
const waiting: (() => void)[] = [];

/** Runs a job when there is a processor for it. */
export async function inTurn<T>(job: () => Promise<T>): Promise<T> {
  if (running === slots) await new Promise<void>((resolve) => waiting.push(resolve));
  else running++;
  try {
    return await job();
  } finally {
    const next = waiting.shift();
    if (next === undefined) running--;
    else next();
  }
}

export interface BootOptions {
  readonly iommu: Iommu;
  /** Runs in the VM as root: a path within the checkout. */
  readonly script: string;
  /** The folder that the VM sees as /mnt and can write to. */
  readonly out: string;
  readonly seconds: number;
  readonly qemuArguments?: string;
}

/**
 * type1 takes IOMMUs that remap no interrupts; vm-x86_64 says the same for iommufd. A busy machine makes the emulated timer late,
 * which the kernel would take for a broken one.
 */
export const KERNEL_ARGUMENTS = 'vfio_iommu_type1.allow_unsafe_interrupts=1 no_timer_check';

/** Runs one of the lab's VMs, whose /mnt is `out`. Returns what it printed; how it ended is for what it left in `out` to say. */
export function runLabVm(program: string, arguments_: readonly string[], out: string): Promise<string> {
  return run(join(lab, program), arguments_, { env: { ...process.env, LAB_OUT: out }, maxBuffer: 1 << 26 }).then(
    ({ stdout, stderr }) => stdout + stderr,
    (error) => `${error.message}\n${error.stdout}\n${error.stderr}`,
  );
}

/** Boots the VM and runs a script in it. Returns what it printed. */
export async function bootVm({ iommu, script, out, seconds, qemuArguments }: BootOptions): Promise<string> {
  const extra = qemuArguments === undefined ? [] : ['-x', qemuArguments];
  const arguments_ = ['-v', iommu, '-T', `${seconds}`, '-a', KERNEL_ARGUMENTS, ...extra, join(await shownRoot(), script)];
  return runLabVm('vm-x86_64', arguments_, out);
}

export interface VmOptions {
  readonly iommu: Iommu;
  /** Names of the files `test/kernel/vm/NAME.vm.ts`. */
  readonly files: readonly string[];
  readonly seconds?: number;
}

/** Runs files of test/kernel/vm in the VM. @throws Error with the VM's output when it gave no results. */
export async function runInVm({ iommu, files, seconds = 600 }: VmOptions): Promise<VmFile[]> {
  const out = mkdtempSync(join(tmpdir(), 'viommu-vm-'));
  const devices = [7, 8].map((slot) => new DmaDevice(join(out, `dma${slot}.sock`), slot));
  try {
    await Promise.all(devices.map((device) => device.listen()));
    writeFileSync(join(out, 'job.json'), JSON.stringify({ files }));
    // edu takes 28 bits of address unless it is told otherwise.
    const qemuArguments = ['-global edu.dma_mask=0xffffffffffffffff', ...devices.map((device) => device.qemuArguments)].join(' ');
    const output = await bootVm({ iommu, script: 'test/kernel/vm/run.sh', out, seconds, qemuArguments });
    const results = join(out, 'results.json');
    const found = existsSync(results) ? decode(JSON.parse(readFileSync(results, 'utf8'))) : [];
    if (found.length === 0) throw new Error(`the VM (${iommu}) gave no results:\n${output.slice(-3000)}`);
    return found;
  } finally {
    for (const device of devices) device.close();
    rmSync(out, { recursive: true, force: true });
  }
}

function decode(report: { testResults: { name: string; message: string; assertionResults: VmTest[] }[] }): VmFile[] {
  return report.testResults.map(({ name, message, assertionResults }) => {
    const of = (status: VmTest['status']) => assertionResults.filter((test) => test.status === status);
    const failures = of('failed').map(({ fullName, failureMessages }) => `${fullName}\n${failureMessages.join('\n')}`);
    if (message !== '') failures.push(message);
    return {
      name: name.replace(/^.*\/(.*)\.vm\.ts$/, '$1'),
      passed: of('passed').length,
      skipped: [...of('skipped'), ...of('pending'), ...of('todo')].map(({ fullName }) => fullName),
      failures,
    };
  });
}
