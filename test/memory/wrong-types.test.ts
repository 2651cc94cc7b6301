import { expect, test } from 'vitest';
import { GuestMemory } from '../../src/memory/guest-memory.ts';
import { VirtioIommu } from '../../src/target/virtio-iommu/index.ts';

/*
 * Methods that are called for every access check no types (test/methods-of-classes.ts). What README promises of them: a wrong type is an error, or is
 * taken as JavaScript takes it; no byte outside guest RAM is read or written, and nothing is kept of it.
 */

const WRONG = [undefined, null, Number.NaN, Infinity, -1, -2, 1.5, 2 ** 20, 2 ** 31, 2 ** 32, 2 ** 53, 1e300, 'x', '8', 5n, {}, [], true];
const RAM = 1 << 16;

/** Calls it with each wrong thing in each place; how often it threw. */
function callWrongly(call: (...args: readonly unknown[]) => unknown, right: readonly unknown[]): number {
  let thrown = 0;
  for (const place of right.keys())
    for (const wrong of WRONG) {
      try {
        call(...right.with(place, wrong));
      } catch {
        thrown++;
      }
    }
  return thrown;
}

test('accesses of guest memory with wrong types stay in guest RAM', () => {
  const buffer = new SharedArrayBuffer(3 * RAM);
  const all = new Uint8Array(buffer).fill(0xaa);
  const memory = new GuestMemory([{ gpa: 0n, buffer, offset: RAM, bytes: RAM }]);
  let thrown = 0;
  for (const method of ['store64', 'store64BE', 'store32', 'store32BE', 'store16'] as const)
    thrown += callWrongly((...args) => Reflect.apply(memory[method], memory, args), [0, 0x1000, 7, 7]);
  for (const method of ['read', 'write'] as const)
    thrown += callWrongly((...args) => Reflect.apply(memory[method], memory, args), [0, 0x1000, new Uint8Array(8).fill(7), 0, 8]);
  expect(thrown).toBeGreaterThan(0);
  // Something was written, and nowhere else.
  expect(all.subarray(RAM, 2 * RAM).some((byte) => byte !== 0xaa)).toBe(true);
  for (const outside of [all.subarray(0, RAM), all.subarray(2 * RAM)]) expect(outside.every((byte) => byte === 0xaa)).toBe(true);
});

test('a translation that was asked for with wrong types leaves nothing behind', () => {
  const target = new VirtioIommu({ memory: GuestMemory.ofBytes(RAM), bootBypass: false });
  target.addEndpoint(8);
  target.negotiate();
  target.attach(1, 8);
  target.map(1, 0x1000n, 0x1fffn, 0x3000n, 1);
  callWrongly((...args) => Reflect.apply(target.translate, target, args), [8, -1, 0, 0x1000, 1]);
  expect(target.translate(8, -1, 0, 0x1008, 1)).toBe(12);
  expect([...target.translated.subarray(0, 2)]).toEqual([0x3008, 0]);
  expect(target.translate(8, -1, 0, 0x1008, 2)).toBeLessThan(0);
  expect(target.translate(8, -1, 0, 0x2000, 1)).toBeLessThan(0);
});
