#!/usr/bin/env node
import { readFileSync, realpathSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { CommanderError, Command as Definition } from 'commander';
import { HostError } from '../host/errno.ts';
import { benchCommand } from './bench.ts';
import { bootCommand } from './boot/index.ts';
import { type Command, ConditionError, EXIT_MISUSE, EXIT_OK, EXIT_WRONG, type Output, UsageError } from './command.ts';
import { conformanceCommand } from './conformance/riscv.ts';
import { demoCommand } from './demo.ts';
import { explainCommand, matrixCommand } from './matrix/index.ts';
import { endQuietly, processOutput } from './output.ts';
import { qtestCommand } from './qtest.ts';
import { RecordingError } from './recording.ts';
import { replayCommand } from './replay/index.ts';

/** One line a command. */
const commands: readonly Command[] = [
  demoCommand,
  replayCommand,
  matrixCommand,
  explainCommand,
  conformanceCommand,
  benchCommand,
  bootCommand,
  qtestCommand,
];

/** Conditions that are no defect of ours: their line says all. What the system refuses (`syscall`) is one too. */
const FORESEEN = [RecordingError, HostError, ConditionError];

/** Runs the command line; resolves to the exit status. */
export async function main(args: readonly string[], output: Output): Promise<number> {
  let status = EXIT_OK;
  // Help and version, which commander writes in pieces.
  const texts: string[] = [];
  const write = (text: string) => void texts.push(text.trimEnd());
  const program = programOf(write, output, (ended) => {
    status = ended;
  });
  if (args.length === 0) {
    for (const line of program.helpInformation().trimEnd().split('\n')) output.err(line);
    return EXIT_MISUSE;
  }
  try {
    await program.parseAsync([...args], { from: 'user' });
    return status;
  } catch (error) {
    if (!(error instanceof CommanderError && error.exitCode === 0)) return failed(error, args, output);
    const text = texts.join('\n');
    output.out(args.includes('--json') ? JSON.stringify({ text }) : text);
    return EXIT_OK;
  }
}

function programOf(print: (text: string) => void, output: Output, end: (status: number) => void): Definition {
  const program = new Definition('viommu')
    .description("Emulates the IOMMU that a guest sees on the host's own")
    .version(version(), '--version', 'print the version')
    .helpOption('-h, --help', 'explain the command and every option')
    .helpCommand('help [command]', 'explain a command')
    // The one line of a misuse is written in `failed`, for all kinds of misuse alike.
    .configureOutput({
      writeOut: print,
      writeErr: () => {},
      outputError: () => {},
      getOutHelpWidth: () => output.columns,
    })
    .configureHelp({ subcommandTerm: (command) => command.name() })
    .exitOverride();
  for (const command of commands) {
    const definition = program.command(command.name).description(command.summary);
    command.define(definition, output, end);
    definition.option('--json', 'print one JSON object on standard output', false);
  }
  return program;
}

function version(): string {
  return JSON.parse(readFileSync(new URL('../../package.json', import.meta.url), 'utf8')).version;
}

/** One line that says what; with --json one object too. An error that nobody foresaw keeps its stack. */
function failed(error: unknown, args: readonly string[], output: Output): number {
  const misuse = error instanceof UsageError || error instanceof CommanderError;
  // Of a command that there is not, commander has help for all and no words.
  const helpless = error instanceof CommanderError && error.code === 'commander.help';
  const message = helpless
    ? `unknown command '${args[1] ?? args[0]}'`
    : (error instanceof Error ? error.message : String(error)).replace(/^error: /, '');
  const line = misuse ? message.split('\n')[0] : message;
  if (args.includes('--json')) output.out(JSON.stringify({ error: line }));
  const name = commands.find((command) => command.name === args[0])?.name;
  const foreseen = misuse || FORESEEN.some((kind) => error instanceof kind) || !(error instanceof Error) || 'syscall' in error;
  output.err(`viommu${name === undefined ? '' : ` ${name}`}: ${foreseen ? line : (error.stack ?? line)}`);
  return misuse ? EXIT_MISUSE : EXIT_WRONG;
}

if (process.argv[1] !== undefined && realpathSync(process.argv[1]) === fileURLToPath(import.meta.url)) {
  endQuietly();
  process.exitCode = await main(process.argv.slice(2), processOutput());
}
