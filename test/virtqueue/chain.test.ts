import { fc, test } from '@fast-check/vitest';
import { expect } from 'vitest';
import { GuestMemory } from '../../src/memory/guest-memory.ts';
import { Chain } from '../../src/virtqueue/chain.ts';

const RAM_BYTES = 4096;
const PIECE = fc.record({ at: fc.integer({ min: 0, max: RAM_BYTES }), bytes: fc.integer({ min: 1, max: 9 }), writable: fc.boolean() });

/** Guest RAM, and a chain of pieces that may lie anywhere, outside too. */
function chainOf(pieces: readonly { at: number; bytes: number; writable: boolean }[]): { chain: Chain; memory: GuestMemory } {
  const chain = new Chain();
  for (const { at, bytes, writable } of [...pieces].sort((a, b) => Number(a.writable) - Number(b.writable)))
    chain.add(0, at, bytes, writable);
  return { chain, memory: GuestMemory.ofBytes(RAM_BYTES) };
}

function contents(memory: GuestMemory): Uint8Array {
  const bytes = new Uint8Array(RAM_BYTES);
  memory.read(0, 0, bytes, 0, RAM_BYTES);
  return bytes;
}

test.prop([fc.array(PIECE, { maxLength: 5 }), fc.integer({ min: 0, max: 12 }), fc.integer()])(
  'store32 is write of the four bytes, wherever the pieces lie',
  (pieces, offset, value) => {
    const stored = chainOf(pieces);
    const written = chainOf(pieces);
    if (stored.chain.writable < offset + 4) return;
    const bytes = new Uint8Array(4);
    new DataView(bytes.buffer).setInt32(0, value, true);
    const answer = written.chain.write(written.memory, offset, bytes, 0, 4);
    expect(stored.chain.store32(stored.memory, offset, value)).toBe(answer);
    if (answer === 0) expect(Buffer.compare(contents(stored.memory), contents(written.memory))).toBe(0);
  },
);
