import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { Stryker } from '@stryker-mutator/core';

/*
 * Changes the files named (or those under src that differ from main), one small mistake at a time, and says which of them the tests of
 * their part do not notice. A survivor is a test that is missing, or a change that means the same; docs/conventions.md says how to read
 * it.
 */

const USAGE = 'usage: npm run mutate -- [--sample LINES] [--seed N] [--tests GLOB,…] [FILE[:FIRST-LAST]…]';

function argumentsOf(argv: string[]) {
  try {
    return parseArgs({
      args: argv,
      allowPositionals: true,
      options: { sample: { type: 'string' }, seed: { type: 'string', default: '1' }, tests: { type: 'string' } },
    });
  } catch (error) {
    console.error(`${(error as Error).message}; ${USAGE}`);
    process.exit(2);
  }
}

/** Files under src that differ from main, as git sees them. */
function changed(): string[] {
  const listed = execFileSync('git', ['diff', '--name-only', '--diff-filter=d', 'main', '--', 'src'], { encoding: 'utf8' });
  return listed.split('\n').filter((file) => file.endsWith('.ts'));
}

/** The tests that mirror a file: those of its part, a target's or a host's own. */
function mirrored(file: string): string {
  const [, area, part] = file.split('/');
  return area === 'target' && part !== undefined && !part.includes('.') ? `test/target/${part}/**/*.test.ts` : `test/${area}/**/*.test.ts`;
}

/** `count` lines of code of a file, drawn by `seed`, as ranges that Stryker takes. */
function sampled(file: string, count: number, seed: number): string[] {
  const lines = readFileSync(file, 'utf8').split('\n');
  const code = lines.flatMap((line, i) => (/^\s*(?:[/*}]|import |export \{|$)/.test(line) ? [] : [i + 1]));
  let state = seed;
  const draw = () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 2 ** 32;
  };
  for (let i = code.length - 1; i > 0; i--) {
    const j = Math.floor(draw() * (i + 1));
    [code[i], code[j]] = [code[j], code[i]];
  }
  return code.slice(0, count).map((line) => `${file}:${line}-${line}`);
}

const { values, positionals } = argumentsOf(process.argv.slice(2));
const files = positionals.length > 0 ? positionals : changed();
if (files.length === 0) {
  console.error(`nothing under src differs from main; ${USAGE}`);
  process.exit(2);
}
const { sample, seed, tests } = values;
process.env['VIOMMU_MUTATION_TESTS'] = tests ?? [...new Set(files.map(mirrored))].join();
const mutate = sample === undefined ? files : files.flatMap((file) => sampled(file, Number(sample), Number(seed)));

const results = await new Stryker({
  mutate,
  testRunner: 'vitest',
  plugins: ['@stryker-mutator/vitest-runner', fileURLToPath(new URL('survivors.mjs', import.meta.url))],
  vitest: { configFile: 'test/mutation/vitest.config.ts' },
  coverageAnalysis: 'perTest',
  // Messages are for people; their words are not judged, that they are there is.
  mutator: { excludedMutations: ['StringLiteral'] },
  ignoreStatic: true,
  reporters: ['survivors'],
  logLevel: 'error' as never,
  concurrency: 1,
  timeoutMS: 20_000,
  tempDirName: '.stryker-tmp',
  // TypeScript 7 has no compiler interface that Stryker could read a tsconfig with; a name that is not there makes it leave that.
  tsconfigFile: 'none',
}).runMutationTest();

const judged = results.filter(({ status }) => status !== 'Ignored' && status !== 'CompileError' && status !== 'RuntimeError');
const survivors = judged.filter(({ status }) => status === 'Survived' || status === 'NoCoverage');
const noticed = judged.length - survivors.length;
console.log(`${noticed} of ${judged.length} mistakes noticed (${((100 * noticed) / Math.max(judged.length, 1)).toFixed(0)} %)`);
process.exitCode = survivors.length > 0 ? 1 : 0;
