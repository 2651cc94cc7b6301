import { existsSync, statSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { type Command, EXIT_OK, EXIT_WRONG, type Output } from './command.ts';
import { guestOf, guestTable, pathTable, type Way } from './demo-tables.ts';
import { progressOf } from './progress.ts';
import { RecordingError } from './recording.ts';
import { wrongOf } from './replay/index.ts';
import { type HostHardware, simRig } from './replay/rig-sim.ts';
import { type ReplayResult, RIG_DEVICES, replay } from './replay/run.ts';

/** Guests to show, in this order; an installed package carries the last of them and those of `shown` (package.json, `files`). */
const recordings = ['pseries-linux-6.12-put-tce', 'pseries-linux-6.12-ddw', 'virtio-iommu-linux-6.12', 'pseries-linux-6.12-ddw-64k'];

/** A guest that announces its mappings and one that owns a first stage: on every path that serves each, with the host's IOMMU that it wants. */
export const shown: readonly { readonly guest: string; readonly ways: readonly (readonly [path: string, hardware: HostHardware])[] }[] = [
  {
    guest: 'virtio-iommu-linux-6.12',
    ways: [
      ['shadow', 'none'],
      ['user-owned', 'vtd'],
      ['user-owned', 'smmuv3'],
      ['user-owned-queue', 'smmuv3-cmdqv'],
    ],
  },
  {
    guest: 'smmuv3-linux-6.12',
    ways: [
      ['shadow', 'none'],
      ['user-owned', 'smmuv3'],
      ['user-owned-queue', 'smmuv3-cmdqv'],
      ['nested', 'smmuv3'],
      ['nested-queue', 'smmuv3-cmdqv'],
    ],
  },
];

/** The same place seen from src/cli and from dist/cli. */
const folder = fileURLToPath(new URL('../../test/recordings/', import.meta.url));
const fileOf = (guest: string): string => `${folder}${guest}.ndjson.gz`;

/** Recorded Linux guests on the embedded simulated kernel, beside what QEMU does for them: what `npm start` runs. */
export const demoCommand: Command = {
  name: 'demo',
  summary: 'replays recorded Linux guests on a simulated kernel',
  define: (command, output, end) => {
    command.action(async ({ json }: { json: boolean }) => end(await demo(json, output)));
  },
};

async function demo(json: boolean, output: Output): Promise<number> {
  const files = recordings.map(fileOf).filter((file) => existsSync(file));
  if (files.length === 0) throw new RecordingError(folder, 0, 'no recorded guest is here');
  const results: ReplayResult[] = [];
  for (const file of files) results.push(await replayed(file, output));
  const paths: Way[] = [];
  for (const { guest, ways } of shown) {
    for (const [path, hardware] of ways) paths.push({ guest, hardware, result: await replayed(fileOf(guest), output, path, hardware) });
  }
  if (json) output.out(JSON.stringify({ recordings: results, paths }));
  else {
    output.out('Recorded Linux guests on the embedded simulated kernel (iommufd): every answer and every DMA compared.\n');
    for (const line of guestTable(results, output.columns)) output.out(line);
    for (const { guest } of shown) {
      output.out(`\n${guest} on each path: host calls that map or unmap, and all others (invalidations).\n`);
      for (const line of pathTable(
        paths.filter((way) => way.guest === guest),
        output.columns,
      ))
        output.out(line);
    }
  }
  const all = [...results, ...paths.map(({ result }) => result)];
  return all.every((result) => wrongOf(result) === 0) ? EXIT_OK : EXIT_WRONG;
}

async function replayed(file: string, output: Output, path = 'auto', hardware: HostHardware = 'none'): Promise<ReplayResult> {
  const progress = progressOf(output, guestOf(file), statSync(file).size);
  const rig = simRig('iommufd', RIG_DEVICES, hardware);
  try {
    const result = await replay({ file, path, ...(progress && { progress }) }, rig);
    output.progress?.('');
    return result;
  } finally {
    rig.close();
  }
}
