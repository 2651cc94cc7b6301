import { expect, test } from 'vitest';
import { GuestMemory } from '../../src/memory/guest-memory.ts';
import { LOADED } from '../../src/memory/loaded.ts';
import { X86Table } from '../../src/pagetable/x86.ts';
import { RiscvIommu } from '../../src/target/riscv/index.ts';
import { VtdIommu } from '../../src/target/vtd/index.ts';

/** Memory that leaves what it loads in a word of its own. */
function apart(): GuestMemory {
  const memory = GuestMemory.ofBytes(1 << 16);
  return new Proxy(memory, { get: (of, name) => (name === 'word' ? new Int32Array(2) : Reflect.get(of, name)) });
}

test('what any memory loads stands in one place, where a store leaves it alone', () => {
  const [one, other] = [GuestMemory.ofBytes(4096), GuestMemory.ofBytes(4096)];
  one.store64(0, 8, 2, 1);
  other.store64(0, 8, 4, 3);
  one.load64(0, 8);
  expect([...LOADED]).toEqual([1, 2]);
  other.store64(0, 16, 9, 9);
  one.store64BE(0, 16, 9, 9);
  expect([...LOADED]).toEqual([1, 2]);
  other.load64(0, 8);
  expect([...one.word]).toEqual([3, 4]);
});

test.each([
  ['x86-64', () => new X86Table(apart(), { root: 1, levels: 4 })],
  ['RiscvIommu', () => new RiscvIommu({}, { memory: apart() })],
  ['VtdIommu', () => new VtdIommu({}, { memory: apart() })],
])('memory that leaves it elsewhere is refused at once: %s', (who, make) => {
  expect(make).toThrow(new TypeError(`${who}: memory.word is not that of GuestMemory`));
});
