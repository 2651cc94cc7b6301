import { execFile } from 'node:child_process';
import { copyFileSync, existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { promisify } from 'node:util';
import type { ReplayResult } from '../../src/cli/replay/run.ts';
import { bootVm } from './lab.ts';

const run = promisify(execFile);
const root = resolve(import.meta.dirname, '../..');

const RECORDING = join(root, 'test/recordings/pseries-linux-6.12-put-tce.ndjson.gz');

/** The recording on the simulated kernel, by the same command. */
export async function replaySimulated(): Promise<ReplayResult> {
  const arguments_ = ['--import', 'tsx', join(root, 'src/cli/main.ts'), 'replay', RECORDING, '--path', 'shadow', '--json'];
  const { stdout } = await run(process.execPath, arguments_, { cwd: root });
  return JSON.parse(stdout);
}

/** The recording on the kernel of the VM, over each interface. @throws Error with what the command said when it gave no result. */
export async function replayInVm(): Promise<ReplayResult[]> {
  const out = mkdtempSync(join(tmpdir(), 'viommu-replay-'));
  try {
    copyFileSync(RECORDING, join(out, 'recording.ndjson.gz'));
    const output = await bootVm({ iommu: 'vtd', script: 'test/kernel/vm/replay.sh', out, seconds: 900 });
    return ['iommufd', 'vfio-type1'].map((host) => {
      const [result, error] = ['json', 'err'].map((end) => {
        const file = join(out, `${host}.${end}`);
        return existsSync(file) ? readFileSync(file, 'utf8') : '';
      });
      if (!result.startsWith('{"file"')) throw new Error(`replay over ${host} in the VM: ${result}${error}\n${output.slice(-2000)}`);
      return JSON.parse(result);
    });
  } finally {
    rmSync(out, { recursive: true, force: true });
  }
}
