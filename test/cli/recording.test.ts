import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { type RecordedLine, recordedLines } from '../../src/cli/recording.ts';
import { folder } from './recordings.ts';

const LIMIT = 1 << 24;

/** A line of exactly so many characters. */
function lineOf(length: number): string {
  const frame = JSON.stringify({ op: 'long', filling: '' }).length;
  return JSON.stringify({ op: 'long', filling: 'x'.repeat(length - frame) });
}

async function linesOf(file: string): Promise<RecordedLine[]> {
  const lines: RecordedLine[] = [];
  for await (const line of recordedLines(file)) lines.push(line);
  return lines;
}

function read(name: string, text: string): Promise<RecordedLine[]> {
  const file = join(folder, name);
  writeFileSync(file, text);
  return linesOf(file);
}

test('lines that lie in many chunks are read whole, beside short ones', async () => {
  const lines = await read('long.ndjson', ['{"op":"a"}', lineOf(LIMIT), '', '{"op":"b"}'].join('\n'));
  expect(lines.map(({ op, number }) => [op, number])).toEqual([
    ['a', 1],
    ['long', 2],
    ['b', 4],
  ]);
  expect(lines[1].text('filling')).toMatch(/^x+$/);
});

test('a longer line is refused with file and line, as soon as it is too long', async () => {
  await expect(read('longer.ndjson', `{"op":"a"}\n${lineOf(LIMIT + 1)}\n`)).rejects.toThrow(
    `longer.ndjson:2: is longer than ${LIMIT} characters`,
  );
  // Without an end that could be waited for.
  await expect(linesOf('/dev/zero')).rejects.toThrow('/dev/zero:1: is longer than');
});
