import { Option } from 'commander';
import { pathNames } from '../../accel/choose.ts';
import { hostKinds } from '../../host/registry.ts';
import { type Command, EXIT_OK, EXIT_WRONG, type Output } from '../command.ts';
import { progressOf } from '../progress.ts';
import { bytesOf } from '../recording.ts';
import { openRig, type PortName, portNames } from './ports.ts';
import { type HostHardware, hostHardwares } from './rig-sim.ts';
import { type ReplayResult, RIG_DEVICES, replay } from './run.ts';

interface ReplayOptions {
  readonly host: string;
  readonly port: PortName;
  readonly path: string;
  readonly hostHw: HostHardware;
  readonly json: boolean;
}

export const replayCommand: Command = {
  name: 'replay',
  summary: 'runs a recorded guest, all answers compared',
  define: (command, output, end) => {
    command
      .argument('<FILE>', 'a recording, as JSON lines, gzipped or not')
      .addOption(new Option('--host <interface>', 'kernel interface of the host').choices(hostKinds()).default('iommufd'))
      .addOption(
        new Option('--port <kernel>', 'the kernel that it runs on: simulated, or the one of this machine')
          .choices(portNames())
          .default('sim'),
      )
      .addOption(new Option('--path <path>', 'path from the guest to the hardware').choices(pathNames()).default('auto'))
      .addOption(new Option('--host-hw <iommu>', "the simulated host's IOMMU").choices(hostHardwares()).default('none'))
      .action(async (file: string, options: ReplayOptions) => end(await run(file, options, output)));
  },
};

async function run(file: string, { host, port, path, hostHw, json }: ReplayOptions, output: Output): Promise<number> {
  const size = await bytesOf(file);
  const rig = await openRig(port, host, RIG_DEVICES, hostHw);
  try {
    const progress = progressOf(output, `replay ${file}`, size);
    const result = await replay({ file, path, ...(progress && { progress }) }, rig);
    output.progress?.('');
    if (json) output.out(JSON.stringify(result));
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
  const { answers, dma, hardwareDma, hostCalls, otherCalls, splits } = result;
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
  out(`  other calls   ${count(otherCalls)}: invalidations, allocations, queries`);
  out(`  splits        ${splits.withGap} with a gap, ${splits.withoutGap} without`);
  for (const note of result.notes ?? []) out(`  note          ${note}`);
  out(`  time          ${result.seconds.toFixed(1)} s`);
  for (const detail of [...answers.details, ...dma.details, ...hardwareDma.details]) out(`  wrong: ${detail}`);
}
