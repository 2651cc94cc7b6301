import type { Command as Definition } from 'commander';

/** What the shell gets: all was right; something was wrong; the command was called wrongly. */
export const EXIT_OK = 0;
export const EXIT_WRONG = 1;
export const EXIT_MISUSE = 2;

/** What a command ended with: the exit status. */
export type Ending = (status: number) => void;

/** One command of the CLI: says its arguments and options to commander, and what to do with them. `--json` is there already. */
export interface Command {
  readonly name: string;
  readonly summary: string;
  define(definition: Definition, output: Output, end: Ending): void;
}

/** Where a command writes: standard output and standard error of the process, or a test's. */
export interface Output {
  readonly out: (line: string) => void;
  readonly err: (line: string) => void;
  /** Shows how far a long command is, on a terminal; null where there is none. */
  readonly progress: ((text: string) => void) | null;
  /** Columns that a table may take. */
  readonly columns: number;
}

/** The command was called wrongly; the message is the one line that says what. */
export class UsageError extends Error {
  constructor(message: string) {
    super(message);
    this.name = 'UsageError';
  }
}

/** Something that the command needs is not there; the message is the one line that says what, and what to do. */
export class ConditionError extends Error {
  constructor(message: string) {
    super(message);
    this.name = 'ConditionError';
  }
}
