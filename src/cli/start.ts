import { existsSync, statSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { EXIT_OK, EXIT_WRONG } from './command.ts';
import { processOutput } from './output.ts';
import { progressOf } from './progress.ts';
import { wrongOf } from './replay/index.ts';
import { simRig } from './replay/rig-sim.ts';
import { type ReplayResult, RIG_DEVICES, replay } from './replay/run.ts';

/** `npm start`: the recorded pseries guests on the simulated kernel, beside what QEMU does for them. */
const recordings = ['pseries-linux-6.12-put-tce', 'pseries-linux-6.12-ddw'];
const folder = process.env['VIOMMU_TRACES_DIR'] ?? fileURLToPath(new URL('../../../shared/traces/', import.meta.url));
const output = processOutput();

async function replayed(name: string): Promise<ReplayResult> {
  const file = `${folder}/${name}.ndjson.gz`;
  const progress = progressOf(output, name, statSync(file).size);
  const rig = simRig('iommufd', RIG_DEVICES);
  try {
    const result = await replay({ file, path: 'auto', ...(progress && { progress }) }, rig);
    output.progress?.('');
    return result;
  } finally {
    rig.close();
  }
}

function table(rows: readonly (readonly string[])[]): string[] {
  const widths = rows[0].map((_, column) => Math.max(...rows.map((row) => row[column].length)));
  return rows.map((row) =>
    row.map((cell, column) => (column === 0 ? cell.padEnd(widths[column]) : cell.padStart(widths[column]))).join('  '),
  );
}

const count = (value: number): string => value.toLocaleString('en');

function row(name: string, result: ReplayResult): string[] {
  const operations = Object.values(result.ops).reduce((sum, value) => sum + value, 0);
  const calls = result.hostCalls.total;
  return [
    name,
    result.path,
    count(operations),
    count(result.answers.wrong),
    count(result.dma.wrong),
    count(result.hardwareDma.wrong),
    count(calls),
    count(result.peerHostCalls),
    `${(result.peerHostCalls / calls).toFixed(0)}x`,
    result.seconds.toFixed(1),
  ];
}

if (!recordings.every((name) => existsSync(`${folder}/${name}.ndjson.gz`))) {
  output.err(`viommu: the recorded guests are not in ${folder} (VIOMMU_TRACES_DIR names another folder)`);
  process.exitCode = EXIT_WRONG;
} else {
  output.out('Recorded Linux guests on the embedded simulated kernel (iommufd): every answer and every DMA compared.\n');
  const heading = [
    'recording',
    'path',
    'operations',
    'wrong answers',
    'wrong DMA (software)',
    'wrong DMA (hardware)',
    'host calls',
    'QEMU 11.1',
    'fewer',
    'seconds',
  ];
  const rows = [heading];
  let wrong = 0;
  for (const name of recordings) {
    const result = await replayed(name);
    wrong += wrongOf(result);
    rows.push(row(name, result));
  }
  for (const line of table(rows)) output.out(line);
  process.exitCode = wrong === 0 ? EXIT_OK : EXIT_WRONG;
}
