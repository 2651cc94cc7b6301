import { spawnSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';

/** What a fresh process says of one variant, in JavaScript or in C: one line of JSON on stdout. */
export interface Sample {
  readonly nsPerOp: number;
  /** Sum of what the first CHECKED batches returned, as int32. */
  readonly checksum: number;
}

/** Batches whose results are compared; bench/baseline/bench.h has the same number. */
export const CHECKED = 8;

/** How long a process measures, and as long again warms up. */
export interface Effort {
  readonly milliseconds: number;
  /** Processes of each kind, in turn; the medians count. */
  readonly rounds: number;
}

const worker = fileURLToPath(new URL('./worker.ts', import.meta.url));

/**
 * `--no-use-osr`: a loop that is compiled while it runs comes out at one of two speeds by chance; batches are compiled between
 * calls instead.
 */
export function sampleNode(row: string, variant: string, options: readonly string[], milliseconds: number): Sample {
  return sample(process.execPath, ['--no-use-osr', ...options, '--import', 'tsx', worker, row, variant, String(milliseconds)]);
}

export function sampleProgram(path: string, args: readonly string[], milliseconds: number): Sample {
  return sample(path, [String(milliseconds), ...args]);
}

/** @throws Error when the process fails, with what it wrote. */
function sample(command: string, args: readonly string[]): Sample {
  const { status, signal, error, stdout, stderr } = spawnSync(command, args, { encoding: 'utf8' });
  if (error || status !== 0) {
    throw new Error(`${command} ${args.join(' ')}: ${error?.message ?? signal ?? `exit code ${status}`}\n${stderr ?? ''}`);
  }
  return JSON.parse(stdout);
}

export function median(values: readonly number[]): number {
  if (values.length === 0) throw new RangeError('no values have no median');
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 === 1 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}
