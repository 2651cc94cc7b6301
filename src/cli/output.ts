import type { Output } from './command.ts';

/** Standard output and standard error; a progress line only where standard error is a terminal. */
export function processOutput(): Output {
  const terminal = process.stderr.isTTY === true;
  return {
    out: (line) => process.stdout.write(`${line}\n`),
    err: (line) => process.stderr.write(`${line}\n`),
    // Return to the line's start and clear it, so that an empty text takes the bar away.
    progress: terminal ? (text) => process.stderr.write(`\r\x1b[K${text}`) : null,
  };
}
