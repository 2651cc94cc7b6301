import type { Output } from './command.ts';

/** Columns of what is no terminal. */
const PLAIN_COLUMNS = 80;

/** Standard output and standard error; a progress line only where standard error is a terminal. */
export function processOutput(): Output {
  const terminal = process.stderr.isTTY === true;
  return {
    out: (line) => process.stdout.write(`${line}\n`),
    err: (line) => process.stderr.write(`${line}\n`),
    // Return to the line's start and clear it, so that an empty text takes the bar away.
    progress: terminal ? (text) => process.stderr.write(`\r\x1b[K${text}`) : null,
    columns: process.stdout.columns ?? PLAIN_COLUMNS,
  };
}

/** A reader that has seen enough (`| head -1`) ends the process quietly; an interrupt leaves a clean line. */
export function endQuietly(): void {
  process.stdout.on('error', (error: NodeJS.ErrnoException) => {
    if (error.code !== 'EPIPE') throw error;
    process.exit();
  });
  process.once('SIGINT', () => {
    if (process.stderr.isTTY === true) process.stderr.write('\r\x1b[K');
    // 128 + SIGINT, as shells say it.
    process.exit(130);
  });
}
