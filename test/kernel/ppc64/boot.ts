import { execFile } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { homedir, tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { gzipSync } from 'node:zlib';
import { Cpio } from '../../../src/cli/boot/cpio.ts';
import { compile, plainModules, root, vitestPackage } from '../foreign/compile.ts';
import type { CaseResult } from '../foreign/vitest-shim.ts';
import { lab } from '../lab.ts';

/*
 * A pSeries guest in emulation: Debian's ppc64el kernel with its sPAPR TCE driver, node and koffi for it, and the host contract compiled to
 * JavaScript, all in one initramfs.
 */

const run = promisify(execFile);

const INIT = `#!/usr/bin/busybox sh
b=/usr/bin/busybox
$b mount -t proc proc /proc
$b mount -t sysfs sysfs /sys
$b mount -t devtmpfs devtmpfs /dev
$b mount -t tmpfs tmpfs /tmp
export PATH=/usr/bin HOME=/tmp
for m in vfio vfio_iommu_spapr_tce vfio-pci-core vfio-pci; do $b insmod /mod/$m.ko; done
cd /app
node test/kernel/ppc64/guest.js
$b poweroff -f
`;

/** @throws Error when something cannot be fetched. */
async function setUp(koffi: string): Promise<string> {
  const folder = join(process.env['VIOMMU_LAB'] ?? join(homedir(), '.cache/viommu-lab'), 'ppc64');
  try {
    await run(join(import.meta.dirname, 'setup.sh'), [folder, koffi], { timeout: 600_000 });
  } catch (error) {
    const { message, stderr } = error as Error & { stderr: string };
    throw new Error(`setup.sh could not fetch the ppc64el guest: ${message}\n${stderr.slice(-1000)}`, { cause: error });
  }
  return folder;
}

function initramfs(folder: string, compiled: string): Buffer {
  const modules = (name: string) => join(root, 'node_modules', name);
  const image = new Cpio().addTree(join(folder, 'root'));
  for (const name of ['lib', 'bin', 'sbin', 'lib64']) image.addLink(name, `usr/${name}`);
  for (const path of ['dev', 'proc', 'sys', 'tmp', 'app', 'app/node_modules']) image.addDirectory(path);
  image.addFile('init', INIT).addTree(compiled, 'app').addFile('app/package.json', '{"type":"module"}');
  for (const name of plainModules) image.addDirectory(`app/node_modules/${name}`).addTree(modules(name), `app/node_modules/${name}`);
  image.addDirectory('app/node_modules/@koromix').addDirectory('app/node_modules/@koromix/koffi-linux-ppc64');
  image.addTree(join(folder, 'package'), 'app/node_modules/@koromix/koffi-linux-ppc64');
  image.addDirectory('app/node_modules/vitest');
  for (const [name, text] of Object.entries(vitestPackage('/app'))) image.addFile(`app/node_modules/vitest/${name}`, text);
  return gzipSync(image.end(), { level: 1 });
}

const QEMU = [
  ...['ppc64', '-M', 'pseries', '-cpu', 'POWER9', '-accel', 'tcg,thread=multi,tb-size=512', '-smp', '1', '-m', '2G', '-nodefaults'],
  ...['-display', 'none', '-serial', 'stdio', '-monitor', 'none', '-no-reboot'],
  // A bridge of their own, so that they are one group: one reads, the other knows whether its write was refused.
  ...[
    '-device',
    'spapr-pci-host-bridge,index=1,id=phb1',
    '-device',
    'iommu-testdev,bus=phb1.0,addr=1.0',
    '-device',
    'edu,bus=phb1.0,addr=2.0',
  ],
  ...['-append', 'console=hvc0 quiet panic=-1 rdinit=/init'],
];

/** Runs the contract in the guest. @throws Error with what the guest said when it did not come to the end. */
export async function runInPpc64(seconds = 400): Promise<CaseResult[]> {
  const koffi: string = JSON.parse(readFileSync(join(root, 'node_modules/koffi/package.json'), 'utf8')).version;
  const folder = await setUp(koffi);
  const out = mkdtempSync(join(tmpdir(), 'viommu-ppc64-'));
  try {
    await compile('ppc64', join(out, 'app'));
    writeFileSync(join(out, 'initrd'), initramfs(folder, join(out, 'app')));
    const images = ['-kernel', join(folder, 'vmlinux'), '-initrd', join(out, 'initrd')];
    const output = await run(join(lab, 'qemu'), [...QEMU, ...images], { timeout: seconds * 1000, maxBuffer: 1 << 26 }).then(
      ({ stdout }) => stdout,
      (error) => `${error.message}\n${error.stdout}`,
    );
    if (!output.includes('CASES DONE')) throw new Error(`the ppc64 guest did not come to the end:\n${output.slice(-4000)}`);
    return [...output.matchAll(/^CASE (.*)$/gm)].map(([, json]) => JSON.parse(json.trim()));
  } finally {
    rmSync(out, { recursive: true, force: true });
  }
}
