import { execFile } from 'node:child_process';
import { accessSync, constants } from 'node:fs';
import { delimiter, join } from 'node:path';
import { promisify } from 'node:util';
import { UsageError } from '../command.ts';

const run = promisify(execFile);

/** A program that is needed, and the command that installs it on Debian. */
export interface Tool {
  readonly name: string;
  readonly install: string;
}

/** Folder that is looked through before PATH: for a QEMU that is not the system's. */
export const QEMU_FOLDER = 'VIOMMU_QEMU';

/** @throws UsageError that names what is missing and how to install it. */
export function findTool({ name, install }: Tool): string {
  const folders = [process.env[QEMU_FOLDER] ?? '', ...(process.env['PATH'] ?? '').split(delimiter)].filter((folder) => folder !== '');
  for (const folder of folders) {
    const path = join(folder, name);
    try {
      accessSync(path, constants.X_OK);
      return path;
    } catch {
      // The next one may have it.
    }
  }
  throw new UsageError(`there is no ${name}: ${install}`);
}

export const debianTools: readonly Tool[] = [
  { name: 'apt-get', install: 'guests are made from Debian packages, which takes apt (or name a kernel with --kernel and its modules)' },
  { name: 'dpkg-deb', install: 'apt-get install dpkg' },
  { name: 'xz', install: 'apt-get install xz-utils' },
];

/** QEMU is a vfio-user client from 10.1 on. */
const QEMU_LEAST = [10, 1] as const;

/** The QEMU for a processor. @throws UsageError when there is none, or none that has vfio-user. */
export async function findQemu(arch: string, debianPackage: string): Promise<{ readonly path: string; readonly version: string }> {
  const install = `apt-get install -t trixie-backports ${debianPackage} (10.1 or newer), or ${QEMU_FOLDER} names the folder that has it`;
  const path = findTool({ name: `qemu-system-${arch}`, install });
  const { stdout } = await run(path, ['--version']);
  const found = /version (\d+)\.(\d+)[.\d]*/.exec(stdout);
  const [major, minor] = [Number(found?.[1] ?? 0), Number(found?.[2] ?? 0)];
  if (major < QEMU_LEAST[0] || (major === QEMU_LEAST[0] && minor < QEMU_LEAST[1]))
    throw new UsageError(`${path} is ${stdout.split('\n')[0]} and has no vfio-user: ${install}`);
  return { path, version: found![0].replace('version ', '') };
}
