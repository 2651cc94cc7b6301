#!/usr/bin/env node
import { realpathSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { HostError } from '../host/errno.ts';
import { type Command, EXIT_MISUSE, EXIT_OK, EXIT_WRONG, type Output, UsageError } from './command.ts';
import { conformanceCommand } from './conformance/riscv.ts';
import { processOutput } from './output.ts';
import { RecordingError } from './recording.ts';
import { replayCommand } from './replay/index.ts';

/** One line a command. */
const commands: readonly Command[] = [replayCommand, conformanceCommand];

/** Runs the command line; resolves to the exit status. */
export async function main(args: readonly string[], output: Output): Promise<number> {
  const [name, ...rest] = args;
  if (name === undefined || name === 'help' || name === '--help' || name === '-h') {
    for (const command of commands) output.out(`viommu ${command.usage}\n    ${command.summary}`);
    return name === undefined ? EXIT_MISUSE : EXIT_OK;
  }
  const command = commands.find((candidate) => candidate.name === name);
  if (command === undefined) {
    output.err(`viommu: there is no command '${name}'; there are ${commands.map((candidate) => candidate.name).join(', ')}`);
    return EXIT_MISUSE;
  }
  try {
    return await command.run(rest, output);
  } catch (error) {
    return failed(error, command, rest.includes('--json'), output);
  }
}

/** One line that says what; with --json one object too. An error that nobody foresaw keeps its stack. */
function failed(error: unknown, command: Command, json: boolean, output: Output): number {
  if (error instanceof UsageError || isParseArgsError(error)) {
    output.err(`viommu ${command.name}: ${(error as Error).message.split('\n')[0]}`);
    return EXIT_MISUSE;
  }
  const message = error instanceof Error ? error.message : String(error);
  if (json) output.out(JSON.stringify({ error: message }));
  const foreseen = error instanceof RecordingError || error instanceof HostError;
  output.err(`viommu ${command.name}: ${foreseen || !(error instanceof Error) ? message : (error.stack ?? message)}`);
  return EXIT_WRONG;
}

function isParseArgsError(error: unknown): boolean {
  return error instanceof TypeError && String((error as NodeJS.ErrnoException).code).startsWith('ERR_PARSE_ARGS');
}

if (process.argv[1] !== undefined && realpathSync(process.argv[1]) === fileURLToPath(import.meta.url)) {
  process.exitCode = await main(process.argv.slice(2), processOutput());
}
