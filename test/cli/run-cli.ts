import type { Output } from '../../src/cli/command.ts';
import { main } from '../../src/cli/main.ts';

/** Runs the command line in this process; collects what it prints. */
export async function runCli(...args: readonly string[]): Promise<{ status: number; out: string; err: string }> {
  const out: string[] = [];
  const err: string[] = [];
  const output: Output = { out: (line) => out.push(line), err: (line) => err.push(line), progress: null, columns: 80 };
  const status = await main(args, output);
  return { status, out: out.join('\n'), err: err.join('\n') };
}
