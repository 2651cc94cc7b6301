import { fc, test } from '@fast-check/vitest';
import { describe, expect } from 'vitest';
import { GuestMemory } from '../../src/memory/guest-memory.ts';
import { CHAIN_LIMIT, Chain } from '../../src/virtqueue/chain.ts';
import { reaching } from '../reaching.ts';

const RAM_BYTES = 4096;
const PIECE = fc.record({
  at: fc.oneof(fc.integer({ min: 0, max: RAM_BYTES }), fc.integer({ min: RAM_BYTES - 9, max: RAM_BYTES })),
  bytes: fc.integer({ min: 1, max: 9 }),
  writable: fc.constantFrom(true, true, true, false),
});

/** Guest RAM, and a chain of pieces that may lie anywhere, outside too. */
function chainOf(pieces: readonly { at: number; bytes: number; writable: boolean }[]): { chain: Chain; memory: GuestMemory } {
  const chain = new Chain();
  for (const { at, bytes, writable } of [...pieces].sort((a, b) => Number(a.writable) - Number(b.writable)))
    chain.add(0, at, bytes, writable);
  return { chain, memory: GuestMemory.ofBytes(RAM_BYTES) };
}

/** Whether four bytes at an offset of what is writable are of one piece. */
function isOfOne(pieces: readonly { bytes: number; writable: boolean }[], offset: number): boolean {
  let start = 0;
  return pieces.some(({ bytes, writable }) => {
    if (!writable) return false;
    start += bytes;
    return offset >= start - bytes && offset + 4 <= start;
  });
}

function contents(memory: GuestMemory): Uint8Array {
  const bytes = new Uint8Array(RAM_BYTES);
  memory.read(0, 0, bytes, 0, RAM_BYTES);
  return bytes;
}

const reached = reaching('store32', 'a store into one piece', 'a store into several', 'a store outside RAM');
test.prop([fc.array(PIECE, { minLength: 2, maxLength: 5 }), fc.integer({ min: 0, max: 12 }), fc.integer()])(
  'store32 is write of the four bytes, wherever the pieces lie',
  (pieces, offset, value) => {
    reached();
    const stored = chainOf(pieces);
    const written = chainOf(pieces);
    if (stored.chain.writable < offset + 4) return;
    const bytes = new Uint8Array(4);
    new DataView(bytes.buffer).setInt32(0, value, true);
    const answer = written.chain.write(written.memory, offset, bytes, 0, 4);
    expect(stored.chain.store32(stored.memory, offset, value)).toBe(answer);
    if (answer !== 0) return reached('a store outside RAM');
    reached(isOfOne(pieces, offset) ? 'a store into one piece' : 'a store into several');
    expect(Buffer.compare(contents(stored.memory), contents(written.memory))).toBe(0);
  },
);

describe('a chain', () => {
  test('has 1,024 pieces at most, and none to be read behind one to be written (2.7.4)', () => {
    const chain = new Chain();
    let taken = 0;
    for (let i = 0; i < CHAIN_LIMIT; i++) taken += Number(chain.add(0, i, 1, false));
    expect([taken, chain.add(0, 0, 1, false), chain.add(0, 0, 1, true), chain.readable]).toEqual([1024, false, false, 1024]);
    chain.clear();
    expect([chain.add(0, 0, 1, true), chain.add(0, 0, 1, false), chain.add(0, 0, 0, true)]).toEqual([true, false, true]);
  });

  test('is written from an offset on, over the ends of its pieces; read as far as there is something', () => {
    const memory = GuestMemory.ofBytes(RAM_BYTES);
    const chain = new Chain();
    for (const at of [0x100, 0x200]) chain.add(0, at, 2, false);
    for (const at of [0x300, 0x400, 0x500]) chain.add(0, at, 4, true);
    memory.write(0, 0x100, Uint8Array.of(1, 2), 0, 2);
    memory.write(0, 0x200, Uint8Array.of(3, 4), 0, 2);
    const bytes = new Uint8Array(6);
    expect([chain.read(memory, bytes, 1, 3), [...bytes]]).toEqual([3, [0, 1, 2, 3, 0, 0]]);
    expect(chain.read(memory, bytes, 0, 6)).toBe(4);
    expect(chain.write(memory, 6, Uint8Array.of(0, 7, 8, 9, 10), 1, 4)).toBe(0);
    const all = contents(memory);
    expect([0x300, 0x400, 0x500].map((at) => [...all.subarray(at, at + 4)])).toEqual([
      [0, 0, 0, 0],
      [0, 0, 7, 8],
      [9, 10, 0, 0],
    ]);
  });
});
