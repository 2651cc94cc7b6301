import { execFile } from 'node:child_process';
import { readdirSync, readFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { promisify } from 'node:util';
import { gzipSync } from 'node:zlib';
import { ConditionError } from '../command.ts';
import { Cpio } from './cpio.ts';
import type { DebianGuest } from './debian.ts';
import { INIT } from './init.ts';

const run = promisify(execFile);

/** An initramfs that runs the guest's checks: busybox, the modules in this order (first those that are not of Debian), and /init. */
export async function initramfs(guest: DebianGuest, modules: readonly string[], extra: readonly ExtraModule[]): Promise<Buffer> {
  const image = new Cpio();
  for (const path of ['bin', 'dev', 'proc', 'sys', 'tmp', 'mnt', 'modules']) image.addDirectory(path);
  image.add('bin/busybox', 0o100755, readFileSync(guest.busybox));
  image.addLink('bin/sh', 'busybox');
  image.addFile('init', INIT);
  const names: string[] = [];
  for (const { name, content } of extra) {
    image.add(`modules/${name}.ko`, 0o100644, content);
    names.push(name);
  }
  for (const name of modules) {
    image.add(`modules/${name}.ko`, 0o100644, await moduleOf(guest, name));
    names.push(name);
  }
  image.addFile('modules/list', `${names.join('\n')}\n`, 0o100644);
  return gzipSync(image.end(), { level: 1 });
}

/** A module that is not of the kernel's package. */
export interface ExtraModule {
  readonly name: string;
  readonly content: Buffer;
}

async function moduleOf(guest: DebianGuest, name: string): Promise<Buffer> {
  const wanted = [`${name}.ko`, `${name}.ko.xz`];
  const path = readdirSync(guest.modules, { recursive: true, encoding: 'utf8' }).find((found) => wanted.includes(basename(found)));
  if (path === undefined) throw new ConditionError(`the kernel ${guest.release} has no module ${name}`);
  const file = join(guest.modules, path);
  if (!file.endsWith('.xz')) return readFileSync(file);
  const { stdout } = await run('xz', ['-dc', file], { encoding: 'buffer', maxBuffer: 1 << 26 });
  return stdout;
}
