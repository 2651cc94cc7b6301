import { X86Table } from '../../src/pagetable/x86.ts';
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
