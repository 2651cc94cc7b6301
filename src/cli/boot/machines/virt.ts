import { execFile } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { type DeviceNode, readDeviceTree } from '../../../vmm/firmware/device-tree/device-tree.ts';
import { mapStreams } from '../../../vmm/firmware/device-tree/iommu-map.ts';
import { DISK, ENGINE, type GuestChoices, machineArguments, RAM_BYTES, type RunFiles } from '../recipe.ts';

const run = promisify(execFile);

/** One of QEMU's `virt` machines: the arguments that make it, and its device tree. */
export interface VirtMachine {
  readonly arguments: readonly string[];
  readonly tree: DeviceNode;
}

export async function virtMachine(
  name: string,
  processor: readonly string[],
  { cpus }: GuestChoices,
  files: RunFiles,
): Promise<VirtMachine> {
  const dump = join(files.folder, 'virt.dtb');
  const processors = ['-accel', 'tcg,thread=multi', ...processor, '-smp', `${cpus}`];
  await run(files.qemu, ['-M', `${name},dumpdtb=${dump}`, '-nodefaults', '-display', 'none', '-m', `${RAM_BYTES >> 20}`, ...processors]);
  return { arguments: machineArguments(name, processors), tree: readDeviceTree(readFileSync(dump)) };
}

/** A phandle that no node has. */
export function freePhandle(tree: DeviceNode): number {
  const taken = [...tree.all()].filter((node) => node.properties.has('phandle')).map((node) => node.cells('phandle')[0]!);
  return Math.max(...taken) + 1;
}

/** Says of the bus that the IOMMU of a phandle translates the endpoints, and knows them by their requester IDs. */
export function mapEndpoints(bus: DeviceNode, phandle: number): void {
  mapStreams(bus, phandle, [{ first: DISK, count: ENGINE - DISK + 1, output: DISK }]);
}
