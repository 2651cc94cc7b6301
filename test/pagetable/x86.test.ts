import { expect, test } from 'vitest';
import { READ, WRITE } from '../../src/memory/access.ts';
import { X86Table } from '../../src/pagetable/x86.ts';
import { TableRam } from './ram.ts';
import { testFormat } from './suite.ts';
import { type X86Variant, x86Rules } from './x86-rules.ts';

const usual: X86Variant = { levels: 4, outputBits: 52, gigabytePages: true, noExecute: true, writeProtect: true, extendedAccessed: false };
const variants: [string, Partial<X86Variant>][] = [
  ['x86-64, 4 levels', {}],
  ['x86-64, 5 levels', { levels: 5 }],
  [
    'x86-64, 4 levels, 39 bits of output, no 1 GiB pages, no XD, no WPE',
    { outputBits: 39, gigabytePages: false, noExecute: false, writeProtect: false },
  ],
  ['x86-64, 5 levels, 46 bits of output, extended accessed', { levels: 5, outputBits: 46, extendedAccessed: true }],
];
for (const [name, variant] of variants) {
  const config = { ...usual, ...variant };
  testFormat({ name, rules: x86Rules(config), create: (memory, root, allocator) => new X86Table(memory, { ...config, root, allocator }) });
}

// VT-d 4.1, 9.8: A, D and EA of a leaf are what its pages were used for; a page that is split off was used as its leaf was.
test('the parts of a split leaf keep its accessed, dirty, extended-accessed and memory-type bits', () => {
  const ram = new TableRam(64, 8);
  const { memory } = ram;
  const table = new X86Table(memory, { ...usual, extendedAccessed: true, root: 1, allocator: ram });
  expect(table.map(0, 0x200, 512, READ | WRITE)).toBe(512);
  const entry = (pfn: number, index: number) => {
    memory.load64(0, pfn * 4096 + 8 * index);
    return memory.word[0];
  };
  // Root, one table of 512 GiB, one of 1 GiB: the leaf of 2 MiB is its first entry.
  const directory = entry(entry(1, 0) >>> 12, 0) >>> 12;
  const used = (1 << 3) | (1 << 4) | (1 << 5) | (1 << 6) | (1 << 10);
  memory.store64(0, directory * 4096, 0, entry(directory, 0) | used);
  expect(table.unmap(7, 1)).toBe(1);
  const leaves = entry(directory, 0) >>> 12;
  for (const index of [0, 6, 8, 511]) expect(entry(leaves, index) & used, `entry ${index}`).toBe(used);
  expect(entry(leaves, 7)).toBe(0);
});
