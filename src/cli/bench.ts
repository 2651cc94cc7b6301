import { spawn } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { type Command, ConditionError, type Output } from './command.ts';

interface BenchOptions {
  readonly list: boolean;
  readonly quick: boolean;
  readonly html?: string;
  readonly json: boolean;
}

/** The harness lies beside `src`; the package does not carry it, for its other side is C that a compiler makes. */
const HARNESS = fileURLToPath(new URL('../../bench/main.ts', import.meta.url));

/** The benchmarks of a clone of the repository, as `npm run bench` runs them. */
export const benchCommand: Command = {
  name: 'bench',
  summary: 'measures the hot paths beside the same work in C (in a clone of the repository)',
  define: (command, output, end) => {
    command
      .argument(
        '[rows...]',
        'rows to measure, or "scale": what costs as the machine grows, all or of spaces, mappings, size (default: all rows)',
      )
      .option('--list', 'only say which rows there are', false)
      .option('--quick', 'one short sample of each, which shows that it runs and measures nothing', false)
      .option('--html <file>', 'also write a page')
      .action(async (rows: readonly string[], options: BenchOptions) => end(await bench(rows, options, output)));
  },
};

async function bench(rows: readonly string[], { list, quick, html, json }: BenchOptions, output: Output): Promise<number> {
  if (!existsSync(HARNESS))
    throw new ConditionError('the benchmarks are in the repository, not in the package: npm run bench in a clone of it');
  const folder = mkdtempSync(join(tmpdir(), 'viommu-bench-'));
  const file = join(folder, 'rows.json');
  const flags = [...(list ? ['--list'] : []), ...(quick ? ['--quick'] : []), ...(html === undefined ? [] : [`--html=${html}`])];
  try {
    const status = await run([...rows, ...flags, ...(json ? ['--json', file] : [])], json ? output.err : output.out, output.err);
    // Without rows, of a list or of what failed, there is nothing but the status to tell.
    if (json) output.out(existsSync(file) ? JSON.stringify(JSON.parse(readFileSync(file, 'utf8'))) : JSON.stringify({ status }));
    return status;
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

/** The harness in a process of its own, its lines as they come. Resolves to its exit status. */
function run(args: readonly string[], out: (line: string) => void, err: (line: string) => void): Promise<number> {
  return new Promise((resolve, reject) => {
    // A name alone would be looked for from where the user stands.
    const tsx = pathToFileURL(createRequire(HARNESS).resolve('tsx')).href;
    const child = spawn(process.execPath, ['--import', tsx, HARNESS, ...args], { stdio: ['ignore', 'pipe', 'pipe'] });
    createInterface(child.stdout).on('line', out);
    createInterface(child.stderr).on('line', err);
    child.once('error', reject);
    child.once('close', (code) => resolve(code ?? 1));
  });
}
