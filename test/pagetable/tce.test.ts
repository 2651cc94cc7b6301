import { expect, it } from 'vitest';
import { READ, WRITE } from '../../src/memory/index.ts';
import { FAULT_INPUT_SIZE, FAULT_NOT_PRESENT } from '../../src/pagetable/page-table.ts';
import { TceTable, type TceTableConfig } from '../../src/pagetable/tce.ts';
import { field, type Rules } from './oracle.ts';
import { TableRam } from './ram.ts';
import { testFormat } from './suite.ts';

type Variant = Omit<TceTableConfig, 'root' | 'allocator'>;

/** LoPAR 2.9, table "TCE Definition"; IODA: an indirect TCE names the next table, of which all have one size. */
function tceRules({ levels, indexBits, pageLg2 }: Variant): Rules {
  const aligned = (address: bigint, lg2: number) => (address >> BigInt(lg2)) << BigInt(lg2);
  const inputBits = pageLg2 + levels * indexBits;
  return {
    entryBytes: 8,
    bigEndian: true,
    index: Array.from({ length: levels }, (_, level) => [pageLg2 + (level + 1) * indexBits - 1, pageLg2 + level * indexBits]),
    input: (address) => (inputBits === 64 || field(address, 63, inputBits) === 0n ? 0 : FAULT_INPUT_SIZE),
    read: (level, entry) => {
      // Page mapping and control 00: page fault.
      if (field(entry, 1, 0) === 0n) return { is: 'fault', fault: FAULT_NOT_PRESENT };
      if (level > 0) return { is: 'table', address: aligned(entry, indexBits + 3), next: level - 1 };
      return { is: 'leaf', address: aligned(entry, pageLg2), lg2: pageLg2, type: 0 };
    },
    // 01: read only, 10: write only, 11: both; of the last entry alone.
    grant: (path) => (field(path[path.length - 1], 0, 0) ? READ : 0) | (field(path[path.length - 1], 1, 1) ? WRITE : 0),
    wishes: (access) => access & (READ | WRITE),
    mark: (_level, entry) => entry,
    samples: (level, address) => [3n, 3n, 2n, 1n, 0n, 0xff3n].map((bits) => aligned(address, level > 0 ? indexBits + 3 : 12) | bits),
  };
}

const variants: readonly Variant[] = [
  { levels: 1, indexBits: 12, pageLg2: 12 },
  { levels: 2, indexBits: 11, pageLg2: 16 },
  { levels: 3, indexBits: 10, pageLg2: 21 },
  { levels: 4, indexBits: 9, pageLg2: 28 },
  { levels: 5, indexBits: 9, pageLg2: 12 },
  // Offsets in a page reach over the lower half of an address.
  { levels: 2, indexBits: 9, pageLg2: 34 },
];
for (const variant of variants) {
  const { levels, indexBits, pageLg2 } = variant;
  testFormat({
    name: `TCEs, ${levels} levels of 2^${indexBits}, pages of ${2 ** (pageLg2 - 10)} KiB`,
    rules: tceRules(variant),
    create: (memory, root, allocator) => new TceTable(memory, { ...variant, root, allocator }),
  });
}

it.each([
  { levels: 0, indexBits: 9, pageLg2: 12 },
  { levels: 6, indexBits: 9, pageLg2: 12 },
  { levels: 1, indexBits: 8, pageLg2: 12 },
  { levels: 1, indexBits: 9, pageLg2: 11 },
  { levels: 5, indexBits: 11, pageLg2: 12 },
])('TCE tables are refused: %o', (variant) => {
  expect(() => new TceTable(new TableRam(1, 1).memory, { ...variant, root: 0 })).toThrow(RangeError);
});
