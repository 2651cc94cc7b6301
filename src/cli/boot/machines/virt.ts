import { execFile } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { type DeviceNode, readDeviceTree } from '../../../vmm/firmware/device-tree/device-tree.ts';
import { RAM_BYTES, type RunFiles } from '../recipe.ts';

const run = promisify(execFile);

/** The device tree that QEMU makes for one of its `virt` machines. */
export async function virtTree(files: RunFiles, machine: string, processor: readonly string[]): Promise<DeviceNode> {
  const dump = join(files.folder, 'virt.dtb');
  await run(files.qemu, ['-M', `${machine},dumpdtb=${dump}`, '-nodefaults', '-display', 'none', '-m', `${RAM_BYTES >> 20}`, ...processor]);
  return readDeviceTree(readFileSync(dump));
}

/** A phandle that no node has. */
export function freePhandle(tree: DeviceNode): number {
  const taken = [...tree.all()].filter((node) => node.properties.has('phandle')).map((node) => node.cells('phandle')[0]!);
  return Math.max(...taken) + 1;
}
