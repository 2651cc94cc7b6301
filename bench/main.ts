/** `npm run bench`, as its `--help` says. */
import { writeFileSync } from 'node:fs';
import { EXIT_MISUSE, EXIT_WRONG } from '../src/cli/command.ts';
import { endQuietly } from '../src/cli/output.ts';
import { requireOutputFile } from '../src/cli/output-file.ts';
import { Compiler } from './compiler.ts';
import { htmlOf } from './html.ts';
import { machineOf } from './machine.ts';
import { measure } from './measure.ts';
import { HELP, type Options, parseOptions } from './options.ts';
import { registry } from './registry.ts';
import { footer, header, lineOf } from './report.ts';
import type { ResultRow } from './row.ts';
import type { Effort } from './sample.ts';
import { SCALE_PARTS, SCALE_TARGETS } from './scale/parts.ts';

const FULL: Effort = { milliseconds: 200, rounds: 7 };
const QUICK: Effort = { milliseconds: 10, rounds: 1 };

/** Rows and their variants. */
async function list(names: readonly string[]): Promise<void> {
  for (const name of names) {
    const { row } = await registry[name]();
    console.log(`${name}: ${row.variants.map((variant) => variant.name).join('; ')}`);
  }
}

async function main(options: Options): Promise<void> {
  if (options.list) return list(options.names);
  const compiler = new Compiler();
  const results: ResultRow[] = [];
  try {
    console.log(header(compiler.version));
    for (const name of options.names) {
      const { row } = await registry[name]();
      for (const variant of row.variants) {
        const result = measure(row, variant, compiler, options.quick ? QUICK : FULL);
        results.push(result);
        console.log(lineOf(result));
      }
    }
  } finally {
    compiler.close();
  }
  console.log(footer(results));
  if (options.json !== null)
    writeFileSync(options.json, `${JSON.stringify({ machine: machineOf(compiler.version), rows: results }, null, 2)}\n`);
  if (options.html !== null) writeFileSync(options.html, htmlOf(results, compiler.version));
}

endQuietly();
let status = EXIT_MISUSE;
try {
  const argv = process.argv.slice(2);
  const growth = argv.includes('scale');
  const parts: readonly string[] = [...SCALE_PARTS, ...SCALE_TARGETS];
  const options = parseOptions(argv, [...Object.keys(registry), ...(growth ? [...parts, 'scale'] : [])]);
  const swept = options.names.filter((name) => parts.includes(name));
  if (growth && options.names.length > swept.length + 1)
    throw new RangeError(
      `scale is measured alone, not with ${options.names.filter((name) => name !== 'scale' && !parts.includes(name)).join(', ')}`,
    );
  if (options.json !== null) requireOutputFile('--json', options.json);
  if (options.html !== null) requireOutputFile('--html', options.html);
  status = EXIT_WRONG;
  if (options.help) console.log(HELP);
  else if (growth) {
    const { listScale, scale } = await import('./scale/main.ts');
    if (options.list) listScale();
    else scale(swept, options);
  } else await main(options);
} catch (error) {
  console.error(`bench: ${error instanceof Error ? error.message : error}`);
  process.exitCode = status;
}
