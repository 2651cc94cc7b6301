import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { describe, expect, test } from 'vitest';
import { RecordedLine, RecordingError, recordedLines } from '../../src/cli/recording.ts';
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

test('fields are what they say, to the last value that there is', () => {
  const one = (value: string, field: (line: RecordedLine) => unknown) => {
    try {
      return field(new RecordedLine('a.ndjson', 7, `{"op":"a","x":${value}}`));
    } catch (error) {
      return (error as Error).message;
    }
  };
  const wrong = (what: string) => `a.ndjson:7: a: 'x' ${what}`;
  const u32 = (line: RecordedLine) => line.u32('x');
  expect(['4294967295', '"0xffffffff"', '-1', '4294967296', '"0x100000000"'].map((value) => one(value, u32))).toEqual([
    0xffff_ffff,
    0xffff_ffff,
    ...Array.from({ length: 3 }, () => wrong('is wider than 32 bits')),
  ]);
  const u64 = (line: RecordedLine) => line.u64('x');
  expect(['"0xffffffffffffffff"', '-1', '"0x10000000000000000"', '1e400', '"7"'].map((value) => one(value, u64))).toEqual([
    2n ** 64n - 1n,
    2n ** 64n - 1n,
    ...Array.from({ length: 3 }, () => wrong('is no 64-bit value')),
  ]);
  expect(one('[1,"0x2"]', (line) => line.u64List('x'))).toEqual([1n, 2n]);
  expect(one('0.5', (line) => line.integer('x'))).toBe(wrong('is no integer'));
  expect(one('null', (line) => line.object('x'))).toBe(wrong('is no object'));
  expect(one('{}', (line) => line.objects('x'))).toBe(wrong('is no list'));
  expect(one('{"y":5}', (line) => line.object('x').u32('y'))).toBe(5);
});

describe('a recording that is cut', () => {
  const lines = [
    { op: 'machine', target: 'vtd' },
    { op: 'read', offset: 0, bytes: 4, value: '0x10' },
    { op: 'note', text: 'ä' },
  ];
  const text = Buffer.from(lines.map((line) => `${JSON.stringify(line)}\n`).join(''));

  async function cutAt(name: string, content: Buffer, end: number): Promise<number> {
    const file = join(folder, name);
    writeFileSync(file, content.subarray(0, end));
    try {
      return (await linesOf(file)).length;
    } catch (error) {
      expect(error).toBeInstanceOf(RecordingError);
      expect((error as Error).message).toMatch(/^[^\n]*:\d+: [^\n]+$/);
      return -1;
    }
  }

  test('compressed, at any byte, is none', async () => {
    const packed = gzipSync(text);
    expect(await cutAt('whole.ndjson.gz', packed, packed.length)).toBe(3);
    for (let end = 1; end < packed.length; end++) expect([end, await cutAt('cut.ndjson.gz', packed, end)]).toEqual([end, -1]);
  });

  test('plain, in a line, is none; between two it is a shorter one', async () => {
    let whole = 0;
    for (let end = 1; end <= text.length; end++) {
      if (text[end - 1] === 10) whole++;
      // A last line needs no end.
      const complete = text[end - 1] === 10 || text[end] === 10;
      const expected = complete ? whole + (text[end] === 10 ? 1 : 0) : -1;
      expect([end, await cutAt('cut.ndjson', text, end)]).toEqual([end, expected]);
    }
  });
});
