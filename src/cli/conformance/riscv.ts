import { Argument } from 'commander';
import { type Command, EXIT_OK, EXIT_WRONG, type Output } from '../command.ts';
import { progressOf } from '../progress.ts';
import { bytesOf, RecordingError, recordedLines } from '../recording.ts';
import { RiscvReplay, type TestResult } from './riscv-replay.ts';

export const conformanceCommand: Command = {
  name: 'conformance',
  summary: 'replays the tests of a reference model',
  define: (command, output, end) => {
    command
      .addArgument(new Argument('<target>', 'whose reference model').choices(['riscv']))
      .argument('<FILE>', 'the recording, as JSON lines, gzipped or not')
      .action(async (_target: string, file: string, { json }: { json: boolean }) => end(await conformance(file, json, output)));
  },
};

/** What `--json` prints. */
export interface ConformanceResult {
  readonly tests: readonly { n: number; name: string; checked: number; wrong: number; excused: number }[];
  readonly passed: number;
  readonly failed: number;
}

/** Resolves to the exit status: EXIT_WRONG when any comparison fails without an excuse. */
async function conformance(file: string, json: boolean, output: Output): Promise<number> {
  const tests = await replayed(file, output);
  const result = summary(tests);
  if (json) output.out(JSON.stringify(result));
  else describe(tests, result, output);
  return result.failed === 0 ? EXIT_OK : EXIT_WRONG;
}

async function replayed(file: string, output: Output): Promise<readonly TestResult[]> {
  const replay = new RiscvReplay();
  let lines = 0;
  const draw = progressOf(output, `conformance ${file}`, await bytesOf(file));
  for await (const line of recordedLines(file, (read) => draw?.(read, lines))) {
    replay.feed(line);
    lines++;
  }
  replay.finish();
  output.progress?.('');
  if (replay.tests.length === 0) throw new RecordingError(file, 1, 'holds no test');
  return replay.tests;
}

function summary(tests: readonly TestResult[]): ConformanceResult {
  const rows = tests.map(({ n, name, checked, differences }) => {
    const excused = differences.filter(({ excuse }) => excuse !== null).length;
    return { n, name, checked, wrong: differences.length - excused, excused };
  });
  const failed = rows.filter(({ wrong }) => wrong > 0).length;
  return { tests: rows, passed: rows.length - failed, failed };
}

function describe(tests: readonly TestResult[], { tests: rows, passed, failed }: ConformanceResult, output: Output): void {
  for (const { n, name, checked, wrong, excused } of rows)
    output.out(`${String(n).padStart(2)} ${name.padEnd(40)} ${String(checked).padStart(6)} compared  ${wrong} wrong  ${excused} excused`);
  const reasons = new Map<string, number[]>();
  for (const { line, expected, got, excuse } of tests.flatMap(({ differences }) => differences)) {
    if (excuse === null) output.out(`line ${line}: expected ${expected}, got ${got}`);
    else reasons.set(excuse, [...(reasons.get(excuse) ?? []), line]);
  }
  for (const [reason, lines] of reasons) output.out(`excused, line ${[...new Set(lines)].join(', ')}: ${reason}`);
  output.out(`${passed} passed, ${failed} failed`);
}
