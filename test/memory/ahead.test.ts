import { expect, test } from 'vitest';
import { AHEAD, AHEAD_BYTES, readAhead } from '../../src/memory/ahead.ts';
import { GuestMemory } from '../../src/memory/guest-memory.ts';

const END = 2 * 4096;
const memory = new GuestMemory([
  { gpa: 0n, buffer: new SharedArrayBuffer(4096) },
  { gpa: 4096n, buffer: new ArrayBuffer(4096) },
]);
for (let at = 0; at < END; at += 8) memory.store64(0, at, -at, at);

const [first] = AHEAD;

test('word k of an entry stands where the k-th array has the entry', () => {
  expect(readAhead(memory, 0, 0x100, 64)).toBe(true);
  expect(AHEAD.map((words) => words[8])).toEqual([0x120, -0x120, 0x128, -0x128, 0x130, -0x130, 0x138, -0x138]);
  expect(new Set(AHEAD.map((words) => words.length))).toEqual(new Set([AHEAD_BYTES / 4]));
});

test.each([1, 2, 3, 4, 5, 7, 8, 127, 128])('%i doublewords are read ahead, and no more', (count) => {
  first.fill(7);
  expect(readAhead(memory, 0, 0x200, 8 * count)).toBe(true);
  const expected = Array.from({ length: AHEAD_BYTES / 4 }, (_, i) =>
    i >= 2 * count ? 7 : i % 2 === 0 ? 0x200 + 4 * i : 4 - 0x200 - 4 * i,
  );
  expect([...first]).toEqual(expected);
});

test('what is read ahead stands in AHEAD from its begin on, and what is not stays', () => {
  first.fill(7);
  expect(readAhead(memory, 0, 0x100, 16)).toBe(true);
  expect([...first.subarray(0, 5)]).toEqual([0x100, -0x100, 0x108, -0x108, 7]);
  expect(readAhead(memory, 0, 4096, AHEAD_BYTES)).toBe(true);
  expect([first[0], first.at(-1)]).toEqual([4096, -(4096 + AHEAD_BYTES - 8)]);
});

test.each([
  ['across two regions', memory, 4096 - 8, 16],
  ['over the end of RAM', memory, END - 8, 16],
  ['where there is no RAM', memory, END, 8],
  ['from memory that reads no runs', {}, 0, 8],
])('nothing is read ahead %s', (_, from, lo, bytes) => {
  first.fill(7);
  expect(readAhead(from, 0, lo, bytes)).toBe(false);
  expect(first.every((word) => word === 7)).toBe(true);
});
