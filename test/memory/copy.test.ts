import { fc, test } from '@fast-check/vitest';
import { expect, test as plain } from 'vitest';
import { copyBytes } from '../../src/memory/copy.ts';
import { GuestMemory } from '../../src/memory/guest-memory.ts';
import { reaching } from '../reaching.ts';

const BYTES = 512;

/** Guest memory and arrays with something else in every byte. */
function setUp() {
  const memory = GuestMemory.ofBytes(4096);
  const ram = new Uint8Array(memory.regions[0].buffer);
  ram.forEach((_, i) => {
    ram[i] = i * 7 + (i >> 8);
  });
  const buffer = new ArrayBuffer(2 * BYTES);
  // One that is aligned to words, one that is not, and one that ends within a word.
  const arrays = [new Uint8Array(buffer, 0, BYTES), new Uint8Array(buffer, BYTES + 4, BYTES - 8), new Uint8Array(new ArrayBuffer(133))];
  for (const array of arrays) for (let i = 0; i < array.length; i++) array[i] = 255 - i * 3;
  return { memory, ram, arrays };
}

const place = fc.oneof(
  fc.nat(20).map((word) => word * 8),
  fc.nat(160),
);
const copy = fc.record({ array: fc.nat(2), at: place, gpa: place, bytes: place, store: fc.boolean() });

const reached = reaching('copies', 'to RAM', 'from RAM', 'of the same array again', 'of a part of a word', 'of nothing');
const whole = { array: 0, at: 8, gpa: 16, bytes: 24, store: true };
const examples = [whole, { ...whole, store: false }, { ...whole, at: 3, bytes: 5 }, { ...whole, bytes: 0 }];

test.prop([fc.array(copy, { minLength: 1, maxLength: 40 })], { examples: [[examples]] })(
  'copies of any size and place are those of the bytes, the same array over and over',
  (copies) => {
    reached();
    const { memory, ram, arrays } = setUp();
    let last: number | null = null;
    for (const { array, at, gpa, bytes, store } of copies) {
      const [ramBefore, before] = [ram.slice(), arrays[array].slice()];
      const size = Math.min(bytes, arrays[array].length - at);
      if (size < 0) continue;
      const answer = store ? memory.write(0, gpa, arrays[array], at, size) : memory.read(0, gpa, arrays[array], at, size);
      expect(answer).toBe(0);
      reached(store ? 'to RAM' : 'from RAM');
      if (array === last) reached('of the same array again');
      if (size % 8 !== 0) reached('of a part of a word');
      if (size === 0) reached('of nothing');
      last = array;
      if (store) ramBefore.set(before.subarray(at, at + size), gpa);
      else before.set(ramBefore.subarray(gpa, gpa + size), at);
      // One compare in one call: `toEqual` looks at each byte for itself.
      expect([Buffer.compare(ram, ramBefore), Buffer.compare(arrays[array], before)]).toEqual([0, 0]);
    }
  },
);

plain('an array whose buffer grows and shrinks gets all its bytes', () => {
  const { memory, ram } = setUp();
  type Resizable = ArrayBuffer & { resize(bytes: number): void };
  const buffer = Reflect.construct(ArrayBuffer, [64, { maxByteLength: 256 }]) as Resizable;
  const array = new Uint8Array(buffer);
  for (const bytes of [64, 64, 64, 128, 128, 32, 32, 0, 0, 256, 256]) {
    buffer.resize(bytes);
    array.fill(0);
    memory.read(0, 8, array, 0, bytes);
    expect(array).toEqual(ram.slice(8, 8 + bytes));
  }
});

plain('places above 2 GiB are no int32: those copies are the engine’s', () => {
  const far = new Proxy(new Uint8Array(8), {
    get: (of, name) => (name === 'set' ? (_: Uint8Array, at: number) => (copied = at) : Reflect.get(of, name)),
  });
  let copied = 0;
  copyBytes(new Uint8Array(8), 0, far, 2 ** 31, 8);
  expect(copied).toBe(2 ** 31);
});

plain.each([65, 257, 4096])('%i bytes, aligned or not, and nothing beside them', (bytes) => {
  const memory = GuestMemory.ofBytes(8192);
  const ram = new Uint8Array(memory.regions[0].buffer);
  ram.forEach((_, i) => {
    ram[i] = i * 5 + (i >> 8);
  });
  const array = new Uint8Array(bytes + 16).fill(0xee);
  for (const [gpa, at] of [
    [8, 8],
    [3, 8],
    [8, 5],
  ]) {
    const expected = array.slice();
    expected.set(ram.subarray(gpa, gpa + bytes), at);
    expect(memory.read(0, gpa, array, at, bytes)).toBe(0);
    expect(Buffer.compare(array, expected)).toBe(0);
    const after = ram.slice();
    after.set(array.subarray(at, at + bytes), gpa + 1);
    expect(memory.write(0, gpa + 1, array, at, bytes)).toBe(0);
    expect(Buffer.compare(ram, after)).toBe(0);
  }
});
