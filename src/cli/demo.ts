import { existsSync, statSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { type Command, EXIT_OK, EXIT_WRONG, type Output } from './command.ts';
import { progressOf } from './progress.ts';
import { RecordingError } from './recording.ts';
import { wrongOf } from './replay/index.ts';
import { type HostHardware, simRig } from './replay/rig-sim.ts';
import { type ReplayResult, RIG_DEVICES, replay } from './replay/run.ts';
import { table } from './table.ts';

/** Guests to show, in this order; an installed package carries the last two of them (package.json, `files`). */
const recordings = ['pseries-linux-6.12-put-tce', 'pseries-linux-6.12-ddw', 'virtio-iommu-linux-6.12', 'pseries-linux-6.12-ddw-64k'];

/** The guest that is shown on every path: every one serves it. And the paths with the host's IOMMU that each wants. */
export const SHOWN = 'virtio-iommu-linux-6.12';
const waysOf: readonly (readonly [path: string, hardware: HostHardware])[] = [
  ['shadow', 'none'],
  ['user-owned', 'vtd'],
  ['user-owned', 'smmuv3'],
  ['user-owned-queue', 'smmuv3-cmdqv'],
];

/** The same place seen from src/cli and from dist/cli. */
const folder = fileURLToPath(new URL('../../test/recordings/', import.meta.url));

/** Recorded Linux guests on the embedded simulated kernel, beside what QEMU does for them: what `npm start` runs. */
export const demoCommand: Command = {
  name: 'demo',
  summary: 'replays recorded Linux guests on a simulated kernel',
  define: (command, output, end) => {
    command.action(async ({ json }: { json: boolean }) => end(await demo(json, output)));
  },
};

async function demo(json: boolean, output: Output): Promise<number> {
  const files = recordings.map((name) => `${folder}${name}.ndjson.gz`).filter((file) => existsSync(file));
  if (files.length === 0) throw new RecordingError(folder, 0, 'no recorded guest is here');
  const results: ReplayResult[] = [];
  for (const file of files) results.push(await replayed(file, output));
  const paths: Way[] = [];
  const onEach = `${folder}${SHOWN}.ndjson.gz`;
  for (const [path, hardware] of waysOf) paths.push({ hardware, result: await replayed(onEach, output, path, hardware) });
  if (json) output.out(JSON.stringify({ recordings: results, paths }));
  else {
    describe(results, output);
    describePaths(paths, output);
  }
  const all = [...results, ...paths.map(({ result }) => result)];
  return all.every((result) => wrongOf(result) === 0) ? EXIT_OK : EXIT_WRONG;
}

interface Way {
  readonly hardware: HostHardware;
  readonly result: ReplayResult;
}

async function replayed(file: string, output: Output, path = 'auto', hardware: HostHardware = 'none'): Promise<ReplayResult> {
  const progress = progressOf(output, nameOf(file), statSync(file).size);
  const rig = simRig('iommufd', RIG_DEVICES, hardware);
  try {
    const result = await replay({ file, path, ...(progress && { progress }) }, rig);
    output.progress?.('');
    return result;
  } finally {
    rig.close();
  }
}

function nameOf(file: string): string {
  return file.slice(folder.length).replace('.ndjson.gz', '');
}

function describe(results: readonly ReplayResult[], output: Output): void {
  const rows = results.map((result) => {
    const { answers, dma, hardwareDma, hostCalls, peerHostCalls } = result;
    const compared = answers.checked + dma.checked + hardwareDma.checked;
    return [
      nameOf(result.file),
      compared,
      wrongOf(result),
      hostCalls.total,
      peerHostCalls,
      `${Math.round(peerHostCalls / hostCalls.total)}x`,
    ];
  });
  output.out('Recorded Linux guests on the embedded simulated kernel (iommufd): every answer and every DMA compared.\n');
  for (const line of table(['guest', 'compared', 'wrong', 'host calls', 'QEMU 11.1', 'fewer'], rows, output.columns)) output.out(line);
}

function describePaths(ways: readonly Way[], output: Output): void {
  const rows = ways.map(({ hardware, result }) => {
    const { hostCalls, otherCalls } = result;
    return [
      result.path,
      hardware,
      wrongOf(result),
      hostCalls.map + hostCalls.unmap + hostCalls.copy,
      otherCalls,
      `${result.seconds.toFixed(1)} s`,
    ];
  });
  output.out(`\n${SHOWN} on each path: host calls that map or unmap, and all others (invalidations).\n`);
  for (const line of table(['path', "host's IOMMU", 'wrong', 'map and unmap', 'others', 'time'], rows, output.columns)) output.out(line);
}
