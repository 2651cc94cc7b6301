import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { chmodSync, existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { gunzipSync } from 'node:zlib';
import { afterAll, afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import { initramfs } from '../../src/cli/boot/initramfs.ts';
import { main } from '../../src/cli/main.ts';

/*
 * `viommu boot` without a guest: a program in QEMU's place that says what a guest would. What stock Linux says is test/guests' matter.
 */

const folder = mkdtempSync(join(tmpdir(), 'viommu-boot-test-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const lines = { out: [] as string[], err: [] as string[] };
const output = { out: (line: string) => lines.out.push(line), err: (line: string) => lines.err.push(line), progress: null, columns: 80 };

async function run(...args: string[]): Promise<number> {
  lines.out.length = 0;
  lines.err.length = 0;
  return main(['boot', ...args], output);
}

/** A guest in the cache, with modules whose content is their name. */
function cache(): string {
  const root = join(folder, 'cache/guest-trixie-amd64/root');
  const modules = join(root, 'lib/modules/6.12-test/kernel/fs');
  mkdirSync(modules, { recursive: true });
  mkdirSync(join(root, 'boot'), { recursive: true });
  mkdirSync(join(root, 'usr/bin'), { recursive: true });
  for (const name of ['pci-stub', 'crc16', 'crc32c_generic', 'mbcache', 'jbd2', 'ext4', 'virtio_blk', 'virtio-iommu'])
    writeFileSync(join(modules, `${name}.ko`), `module ${name}`);
  writeFileSync(join(root, 'boot/vmlinuz-6.12-test'), 'kernel');
  writeFileSync(join(root, 'usr/bin/busybox'), 'busybox');
  writeFileSync(join(folder, 'cache/guest-trixie-amd64/ready'), '');
  return join(folder, 'cache');
}

/** A program that answers --version, and otherwise runs the script. */
function qemu(script: string, version = '11.1.3'): void {
  const path = join(folder, 'bin');
  mkdirSync(path, { recursive: true });
  const program = join(path, 'qemu-system-x86_64');
  writeFileSync(program, `#!/bin/sh\nif [ "$1" = --version ]; then echo "QEMU emulator version ${version}"; exit 0; fi\n${script}\n`);
  chmodSync(program, 0o755);
  vi.stubEnv('VIOMMU_QEMU', path);
}

/** Where temporary files are made: none is left. */
const temporary = join(folder, 'tmp');
mkdirSync(temporary);

beforeEach(() => {
  vi.stubEnv('TMPDIR', temporary);
  vi.stubEnv('VIOMMU_CACHE', cache());
});
afterEach(() => {
  vi.unstubAllEnvs();
  expect(readdirSync(temporary).filter((name) => name.startsWith('viommu-'))).toEqual([]);
});

describe('what is wrong is said in one line, status 2', () => {
  test.each([
    [['--iommu', 'none'], /--iommu none is none of vtd/],
    [['--cpus', '0'], /--cpus 0 is not in 1\.\.8/],
    [['--timeout', 'soon'], /--timeout soon is not in/],
    [['--task', 'sing'], /--task sing: vtd has reboot, rebind, network/],
    [['--iommu', 'amd', '--task', 'network'], /--task network: amd has reboot, rebind/],
    [['--variant', 'v2'], /--variant v2: vtd has caching-mode, scalable/],
    [['--iommu', 'virtio', '--remap'], /--remap: virtio remaps no interrupts/],
    [['--iommu', 'riscv'], /--iommu riscv needs a --module that puts the devices into domains/],
    [['--module', '/nowhere/own.ko'], /--module \/nowhere\/own.ko is no file/],
    [['--kernel', '/nowhere/vmlinuz'], /--kernel \/nowhere\/vmlinuz is no file/],
  ])('%j', async (args, message) => {
    expect(await run(...args)).toBe(2);
    expect(lines.err.join()).toMatch(message);
  });

  test('no QEMU: the command that installs it', async () => {
    vi.stubEnv('VIOMMU_QEMU', join(folder, 'nowhere'));
    vi.stubEnv('PATH', join(folder, 'nowhere'));
    expect(await run()).toBe(2);
    expect(lines.err).toEqual([expect.stringMatching(/there is no qemu-system-x86_64: apt-get install .*qemu-system-x86/)]);
  });

  test('a QEMU without vfio-user', async () => {
    qemu('exit 1', '7.2.0');
    expect(await run()).toBe(2);
    expect(lines.err.join()).toMatch(/7\.2\.0 and has no vfio-user: apt-get/);
  });

  test('no apt where a guest has to be fetched', async () => {
    qemu('exit 1');
    vi.stubEnv('VIOMMU_CACHE', join(folder, 'empty'));
    vi.stubEnv('PATH', '/nowhere');
    expect(await run()).toBe(2);
    expect(lines.err.join()).toMatch(/there is no apt-get/);
  });
});

test('the guest’s words are the report: checks, notes, faults, and what is missing', async () => {
  qemu(`echo "[ 0.1] viommu: note kernel 6.12-test with 1 processors"
echo "[ 0.1] DMAR: Intel(R) Virtualization Technology for Directed I/O"
echo "[ 0.2] viommu: check mkfs ok"
echo "[ 0.3] viommu: check read-back failed: sum differs"
echo "[ 0.4] DMAR: [DMA Write NO_PASID] Request device [00:06.0] fault addr 0xdead0000 [fault reason 0x05]"
echo "[ 0.5] viommu: end"`);
  expect(await run('--json')).toBe(1);
  const report = JSON.parse(lines.out.join(''));
  expect(report).toMatchObject({
    iommu: 'vtd',
    qemu: '11.1.3',
    kernel: '6.12-test',
    faults: [expect.stringContaining('fault addr 0xdead0000')],
  });
  expect(report.checks).toEqual([
    { name: 'mkfs', ok: true },
    { name: 'read-back', ok: false, detail: 'sum differs' },
    { name: 'driver', ok: true },
    { name: 'fault seen', ok: true },
    expect.objectContaining({ name: 'interrupts', ok: false }),
    { name: 'disk faults', ok: true },
    { name: 'no exception', ok: true },
    { name: 'to the end', ok: true },
  ]);
});

test('a guest that does not end is ended, and named', async () => {
  const pid = join(folder, 'pid');
  qemu(`echo $$ >${pid}; echo "viommu: check mkfs ok"; exec sleep 1000`);
  expect(await run('--timeout', '1', '--json')).toBe(1);
  const { checks } = JSON.parse(lines.out.join(''));
  expect(checks).toContainEqual({ name: 'in time', ok: false, detail: 'it did not end within 1 s' });
  expect(() => process.kill(Number(readFileSync(pid, 'utf8')), 0)).toThrow('ESRCH');
});

test('a QEMU that does not start is told in its own words', async () => {
  qemu('echo "no such machine" >&2; exit 1');
  expect(await run()).toBe(1);
  expect(lines.out.join('\n')).toMatch(/FAILED qemu: it ended with 1: no such machine/);
});

test('a kernel that panics is not waited for, nor is a QEMU that dies; what was said until then is the report', async () => {
  qemu('echo "viommu: check mkfs ok"; echo "[ 1.0] Kernel panic - not syncing: no init"; exec sleep 1000');
  expect(await run('--json')).toBe(1);
  const panic = JSON.parse(lines.out.join(''));
  expect(panic.checks).toContainEqual({ name: 'mkfs', ok: true });
  expect(panic.checks).toContainEqual(expect.objectContaining({ name: 'to the end', ok: false }));
  expect(panic.console.at(-1)).toMatch(/Kernel panic/);
  qemu('echo "viommu: check mkfs ok"; kill -9 $$');
  expect(await run('--json')).toBe(1);
  expect(JSON.parse(lines.out.join('')).checks).toContainEqual({ name: 'qemu', ok: false, detail: 'it ended with null' });
});

test('QEMU gets a socket for each function and the table that names the registers', async () => {
  const seen = join(folder, 'seen');
  qemu(`printf '%s\\n' "$@" >${seen}
while [ $# -gt 1 ]; do [ "$1" = -acpitable ] && cp "\${2#file=}" ${seen}.table; shift; done`);
  await run('--cpus', '2', '--remap', '--append', 'iommu.strict=1');
  const args = readFileSync(seen, 'utf8');
  expect(args.match(/"driver":"vfio-user-pci".*"addr":"[456]\.0"/g)?.length).toBe(3);
  expect(args).toMatch(/intel_iommu=on .*iommu\.strict=1/);
  expect(args).toMatch(/-smp\n2\n/);
  const table = readFileSync(`${seen}.table`);
  expect(table.toString('latin1', 0, 4)).toBe('DMAR');
  expect(table.readUInt8(37) & 1).toBe(1);
  expect(table.readBigUInt64LE(56)).toBe(0xfebf_c000n);
});

test.each([
  ['amd', 'IVRS', 4],
  ['virtio', 'VIOT', 3],
] as const)('%s: its functions and its %s', async (iommu, signature, functions) => {
  const seen = join(folder, `seen-${iommu}`);
  qemu(`printf '%s\\n' "$@" >${seen}
while [ $# -gt 1 ]; do [ "$1" = -acpitable ] && cp "\${2#file=}" ${seen}.table; shift; done`);
  await run('--iommu', iommu);
  expect(readFileSync(seen, 'utf8').match(/"driver":"vfio-user-pci"/g)?.length).toBe(functions);
  expect(readFileSync(`${seen}.table`, 'latin1').slice(0, 4)).toBe(signature);
});

test('the initramfs has busybox, the script and the modules in order', async () => {
  const root = join(cache(), 'guest-trixie-amd64/root');
  const guest = { release: '6.12-test', kernel: '', modules: join(root, 'lib/modules/6.12-test'), busybox: join(root, 'usr/bin/busybox') };
  const own = { name: 'own', content: Buffer.from('module own') };
  const image = gunzipSync(await initramfs(guest, ['mbcache', 'ext4'], [own])).toString('latin1');
  expect(image.startsWith('070701')).toBe(true);
  expect(image).toContain('module ext4');
  expect(image).toContain('module own');
  expect(image).toContain('own\nmbcache\next4\n');
  expect(image).toContain('#!/bin/busybox sh');
  await expect(initramfs(guest, ['nonesuch'], [])).rejects.toThrow(/no module nonesuch/);
});

test.each([
  ['SIGTERM', 143],
  ['SIGINT', 130],
  ['SIGHUP', 129],
] as const)('told to end meanwhile by %s, it takes QEMU and its files with it', async (signal, status) => {
  const pid = join(folder, `${signal}-pid`);
  qemu(`echo $$ >${pid}; exec sleep 1000`);
  const main = join(import.meta.dirname, '../../src/cli/main.ts');
  const child = spawn(process.execPath, ['--import', 'tsx', main, 'boot'], { env: process.env, stdio: 'ignore' });
  const ended = once(child, 'exit');
  await expect.poll(() => existsSync(pid) && readFileSync(pid, 'utf8') !== '', { timeout: 60_000 }).toBe(true);
  child.kill(signal);
  expect((await ended)[0]).toBe(status);
  await expect.poll(() => isAlive(Number(readFileSync(pid, 'utf8'))), { timeout: 10_000 }).toBe(false);
});

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
}
