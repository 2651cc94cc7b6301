import type { Output } from './command.ts';
import type { ReadProgress } from './recording.ts';

/** Milliseconds between two drawings. */
const INTERVAL = 100;
const WIDTH = 30;

/** Draws a bar of how much of a file is read, a few times a second; undefined where there is no terminal. */
export function progressOf(output: Output, title: string, bytes: number): ((read: ReadProgress, lines: number) => void) | undefined {
  const { progress } = output;
  if (progress === null) return undefined;
  let next = 0;
  return ({ bytesRead }, lines) => {
    const now = performance.now();
    if (now < next) return;
    next = now + INTERVAL;
    const part = bytes === 0 ? 1 : Math.min(bytesRead / bytes, 1);
    const filled = Math.round(part * WIDTH);
    progress(
      `${title} [${'#'.repeat(filled)}${'.'.repeat(WIDTH - filled)}] ${Math.round(part * 100)} % ${lines.toLocaleString('en')} operations`,
    );
  };
}
