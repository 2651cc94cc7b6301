/** What the shell gets: all was right; something was wrong; the command was called wrongly. */
export const EXIT_OK = 0;
export const EXIT_WRONG = 1;
export const EXIT_MISUSE = 2;

/** One command of the CLI. */
export interface Command {
  readonly name: string;
  /** The arguments, as the usage line shows them. */
  readonly usage: string;
  readonly summary: string;
  /** @throws UsageError for misuse; resolves to the exit status otherwise. */
  run(args: readonly string[], output: Output): Promise<number>;
}

/** Where a command writes: standard output and standard error of the process, or a test's. */
export interface Output {
  readonly out: (line: string) => void;
  readonly err: (line: string) => void;
  /** Shows how far a long command is, on a terminal; null where there is none. */
  readonly progress: ((text: string) => void) | null;
}

/** The command was called wrongly; the message is the one line that says what. */
export class UsageError extends Error {
  constructor(message: string) {
    super(message);
    this.name = 'UsageError';
  }
}

/** One value, or all of it refused with the values that there are. */
export function oneOf<T extends string>(option: string, value: string, allowed: readonly T[]): T {
  const found = allowed.find((candidate) => candidate === value);
  if (found === undefined) throw new UsageError(`--${option} ${value}: there are ${allowed.join(', ')}`);
  return found;
}
