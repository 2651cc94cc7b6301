import { spawnSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';

/** What a fresh process says of one variant, in JavaScript or in C: one line of JSON on stdout. */
export interface Sample {
  /** Of the batch that one in twenty is faster than: what else the machine does makes batches slower, never faster. */
  readonly nsPerOp: number;
  /** Sum of what the first CHECKED batches returned, as int32. */
  readonly checksum: number;
}

/** Batches whose results are compared; bench/baseline/bench.h has the same number. */
export const CHECKED = 8;

/** How long a process measures, and as long again warms up. */
export interface Effort {
  readonly milliseconds: number;
  /** Processes of each kind, in turn; the medians count, and how far the pairs are apart. */
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

/** The share of batches that is faster than the one that counts; bench/baseline/bench.h has the same number. */
const LOW = 0.05;

export function lowPercentile(values: readonly number[]): number {
  return ascending(values)[Math.floor(values.length * LOW)];
}

export function median(values: readonly number[]): number {
  const sorted = ascending(values);
  const middle = sorted.length >> 1;
  return sorted.length % 2 === 1 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}

/** Between which values the median lies, with 87 of 100 for seven of them: all but the least and the greatest. Of less than five: all. */
export function middleOf(values: readonly number[]): [number, number] {
  const sorted = ascending(values);
  const out = sorted.length < 5 ? 0 : 1;
  return [sorted[out], sorted[sorted.length - 1 - out]];
}

function ascending(values: readonly number[]): number[] {
  if (values.length === 0) throw new RangeError('no values have no middle');
  return [...values].sort((a, b) => a - b);
}
