import { expect, test } from 'vitest';
import { AHEAD, AHEAD_BYTES, readAhead } from '../../src/memory/ahead.ts';
import { GuestMemory } from '../../src/memory/guest-memory.ts';

const END = 2 * 4096;
const memory = new GuestMemory([
  { gpa: 0n, buffer: new SharedArrayBuffer(4096) },
  { gpa: 4096n, buffer: new ArrayBuffer(4096) },
]);
for (let at = 0; at < END; at += 8) memory.store64(0, at, -at, at);

test('what is read ahead stands in AHEAD from its begin on, and what is not stays', () => {
  AHEAD.fill(7);
  expect(readAhead(memory, 0, 0x100, 16)).toBe(true);
  expect([...AHEAD.subarray(0, 5)]).toEqual([0x100, -0x100, 0x108, -0x108, 7]);
  expect(readAhead(memory, 0, 4096, AHEAD_BYTES)).toBe(true);
  expect([AHEAD[0], AHEAD.at(-1)]).toEqual([4096, -(4096 + AHEAD_BYTES - 8)]);
});

test.each([
  ['across two regions', memory, 4096 - 8, 16],
  ['over the end of RAM', memory, END - 8, 16],
  ['where there is no RAM', memory, END, 8],
  ['from memory that reads no runs', {}, 0, 8],
])('nothing is read ahead %s', (_, from, lo, bytes) => {
  AHEAD.fill(7);
  expect(readAhead(from, 0, lo, bytes)).toBe(false);
  expect(AHEAD.every((word) => word === 7)).toBe(true);
});
