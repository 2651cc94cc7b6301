import { parseArgs } from 'node:util';
import { pathNames } from '../../accel/choose.ts';
import { hostKinds } from '../../host/registry.ts';
import { type Command, EXIT_OK, EXIT_WRONG, type Output, oneOf, UsageError } from '../command.ts';
import { progressOf } from '../progress.ts';
import { bytesOf } from '../recording.ts';
import { openRig, portNames } from './ports.ts';
import { type ReplayResult, RIG_DEVICES, replay } from './run.ts';

export const replayCommand: Command = {
  name: 'replay',
  usage: `replay FILE [--host ${hostKinds().join('|')}] [--port ${portNames().join('|')}] [--path ${pathNames().join('|')}] [--json]`,
  summary: 'runs a recorded guest and compares every answer and every DMA',
  run,
};

async function run(args: readonly string[], output: Output): Promise<number> {
  const { values, positionals } = parseArgs({
    args: [...args],
    allowPositionals: true,
    options: {
      host: { type: 'string', default: 'iommufd' },
      port: { type: 'string', default: 'sim' },
      path: { type: 'string', default: 'auto' },
      json: { type: 'boolean', default: false },
    },
  });
  if (positionals.length !== 1) throw new UsageError(`replay takes one FILE, not ${positionals.length}`);
  const [file] = positionals;
  const host = oneOf('host', values.host, hostKinds());
  const path = oneOf('path', values.path, pathNames());
  const size = await bytesOf(file);
  const rig = await openRig(oneOf('port', values.port, portNames()), host, RIG_DEVICES);
  try {
    const progress = progressOf(output, `replay ${file}`, size);
    const result = await replay({ file, path, ...(progress && { progress }) }, rig);
    output.progress?.('');
    if (values.json) output.out(JSON.stringify(result));
    else describe(result, output);
    return wrongOf(result) === 0 ? EXIT_OK : EXIT_WRONG;
  } finally {
    rig.close();
  }
}

/** Wrong answers and wrong DMAs of either kind. */
export function wrongOf(result: ReplayResult): number {
  return result.answers.wrong + result.dma.wrong + result.hardwareDma.wrong;
}

function describe(result: ReplayResult, { out }: Output): void {
  const { answers, dma, hardwareDma, hostCalls, splits } = result;
  const count = (value: number): string => value.toLocaleString('en');
  out(`${result.file}: ${result.target} guest over ${result.host} (${result.port}), path ${result.path}`);
  out(
    `  operations    ${Object.entries(result.ops)
      .map(([op, times]) => `${count(times)} ${op}`)
      .join(', ')}`,
  );
  out(`  answers       ${count(answers.checked)} checked, ${count(answers.wrong)} wrong`);
  out(`  software DMA  ${count(dma.checked)} checked, ${count(dma.wrong)} wrong`);
  out(`  hardware DMA  ${count(hardwareDma.checked)} checked, ${count(hardwareDma.wrong)} wrong`);
  out(
    `  host calls    ${count(hostCalls.total)}: ${count(hostCalls.map)} map, ${count(hostCalls.unmap)} unmap, ${count(hostCalls.copy)} copy, ${count(hostCalls.attach)} attach (QEMU 11.1: ${count(result.peerHostCalls)})`,
  );
  out(`  splits        ${splits.withGap} with a gap, ${splits.withoutGap} without`);
  out(`  time          ${result.seconds.toFixed(1)} s`);
  for (const detail of [...answers.details, ...dma.details, ...hardwareDma.details]) out(`  wrong: ${detail}`);
}
