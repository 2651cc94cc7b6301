/** `npm run bench [-- NAME…] [--json FILE] [--html FILE] [--quick]` */
import { writeFileSync } from 'node:fs';
import { Compiler } from './compiler.ts';
import { htmlOf } from './html.ts';
import { measure } from './measure.ts';
import { parseOptions } from './options.ts';
import { registry } from './registry.ts';
import { footer, header, lineOf } from './report.ts';
import type { ResultRow } from './row.ts';
import type { Effort } from './sample.ts';

const FULL: Effort = { milliseconds: 200, rounds: 5 };
const QUICK: Effort = { milliseconds: 10, rounds: 1 };

async function main(): Promise<void> {
  const options = parseOptions(process.argv.slice(2), Object.keys(registry));
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
  if (options.json !== null) writeFileSync(options.json, `${JSON.stringify({ rows: results }, null, 2)}\n`);
  if (options.html !== null) writeFileSync(options.html, htmlOf(results, compiler.version));
}

main().catch((error: unknown) => {
  console.error(`bench: ${error instanceof Error ? error.message : error}`);
  process.exitCode = 1;
});
