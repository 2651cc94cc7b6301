import { expect, it } from 'vitest';
import { READ, WRITE } from '../../src/memory/index.ts';
import { FAULT_INPUT_SIZE, FAULT_NOT_PRESENT, FAULT_RESERVED, faultCode } from '../../src/pagetable/page-table.ts';
import { S390Table, type S390TableConfig } from '../../src/pagetable/s390.ts';
import { field, type Rules } from './oracle.ts';
import { TableRam } from './ram.ts';
import { testFormat } from './suite.ts';

type Variant = Required<Omit<S390TableConfig, 'root' | 'allocator'>>;

/** Bit `n` of the Principles of Operation, which counts from the most significant one. */
function bit(entry: bigint, n: number): boolean {
  return field(entry, 63 - n, 63 - n) === 1n;
}
/** Bits `first` to `last` of the same, in place, the others zero. */
function origin(entry: bigint, last: number): bigint {
  return field(entry, 63, 63 - last) << BigInt(63 - last);
}

/** Principles of Operation, chapter 3, "Translation Tables": region-, segment- and page-table entries; "Lookup in a table …". */
function s390Rules({ levels, protected: anchored, edat }: Variant): Rules {
  // Bits of the virtual address, counted from the left, that index each table: PX, SX, RTX, RSX, RFX.
  const left = [
    [44, 51],
    [33, 43],
    [22, 32],
    [11, 21],
    [0, 10],
  ].slice(0, levels);
  const invalid = (level: number, entry: bigint) => bit(entry, level === 0 ? 53 : 58);
  return {
    entryBytes: 8,
    bigEndian: true,
    index: left.map(([first, last]) => [63 - first, 63 - last]),
    input: (address) => (field(address, 63, 64 - left[levels - 1][0]) === 0n || levels === 5 ? 0 : FAULT_INPUT_SIZE),
    read: (level, entry) => {
      if (invalid(level, entry)) return { is: 'fault', fault: FAULT_NOT_PRESENT };
      if (entry === 0n) return { is: 'fault', fault: FAULT_RESERVED };
      if (level === 0) {
        if (bit(entry, 52)) return { is: 'fault', fault: FAULT_RESERVED };
        return { is: 'leaf', address: origin(entry, 51), lg2: 12, type: 0 };
      }
      // Table type 00: segment, 01, 10, 11: region third, second, first.
      if (field(entry, 3, 2) !== BigInt(level - 1)) return { is: 'fault', fault: FAULT_RESERVED };
      if (bit(entry, 53) && level === 1 && edat >= 1) return { is: 'leaf', address: origin(entry, 43), lg2: 20, type: 0 };
      if (bit(entry, 53) && level === 2 && edat >= 2) return { is: 'leaf', address: origin(entry, 32), lg2: 31, type: 0 };
      if (level === 1) return { is: 'table', address: origin(entry, 52), next: 0 };
      if (field(entry, 1, 0) !== 3n || field(entry, 7, 6) !== 0n) return { is: 'fault', fault: FAULT_RESERVED };
      return { is: 'table', address: origin(entry, 49), next: level - 1 };
    },
    grant: (path) => (anchored || path.some((entry) => bit(entry, 54)) ? READ : READ | WRITE),
    wishes: (access) => access & (READ | WRITE),
    mark: (_level, entry) => entry,
    samples: (level, address) => {
      const type = BigInt(Math.max(0, level - 1)) << 2n;
      if (level === 0) return [0n, 0x200n, 0x400n, 0x20n, 0x110n].map((bits) => origin(address, 51) | bits);
      const tables = [3n, 3n, 0x203n, 0x23n].map((bits) => origin(address, level === 1 ? 52 : 49) | bits | type);
      const leaves = level === 1 ? [0x400n, 0x600n].map((bits) => origin(address, 43) | bits) : [];
      const frames = level === 2 ? [0x400n, 0x403n, 0x600n].map((bits) => origin(address, 32) | bits | type) : [];
      return [...tables, ...leaves, ...frames];
    },
  };
}

const variants: readonly Variant[] = [
  { levels: 2, protected: false, edat: 1 },
  { levels: 3, protected: false, edat: 1 },
  { levels: 3, protected: true, edat: 0 },
  { levels: 4, protected: false, edat: 2 },
  { levels: 5, protected: false, edat: 2 },
];
const anchors = ['', '', 'segment', 'region third', 'region second', 'region first'];
for (const variant of variants) {
  const { levels, edat } = variant;
  testFormat({
    name: `s390 ${anchors[levels]} table, EDAT ${edat}${variant.protected ? ', protected' : ''}`,
    rules: s390Rules(variant),
    create: (memory, root, allocator) => new S390Table(memory, { ...variant, root, allocator }),
  });
}

it('s390: an anchor designates 2 to 5 levels of tables', () => {
  for (const levels of [0, 1, 6, Number.NaN])
    expect(() => new S390Table(new TableRam(1, 1).memory, { levels, root: 0 })).toThrow(RangeError);
});

it.each([2, 3, 4, 5] as const)('%i levels: what was unmapped, and what new tables do not map, is invalid, not malformed', (levels) => {
  const ram = new TableRam(64, 16);
  const table = new S390Table(ram.memory, { root: 8, levels, allocator: ram });
  expect(table.map(0x40, 0x99, 2, READ | WRITE)).toBe(2);
  expect(table.walk(0, 0x42000, READ)).toBe(faultCode(FAULT_NOT_PRESENT, 0));
  expect(table.unmap(0x40, 1)).toBe(1);
  expect(table.walk(0, 0x40000, READ)).toBe(faultCode(FAULT_NOT_PRESENT, 0));
  expect(table.walk(0, 0x41000, READ)).toBe(12);
  expect(table.unmap(0x41, 1)).toBe(1);
  expect(ram.inUse).toBe(0);
  expect(table.walk(0, 0x41000, READ)).toBe(faultCode(FAULT_NOT_PRESENT, levels - 1));
  expect(table.map(0x100, 0x200, 256, READ)).toBe(256);
  expect(table.unmap(0x100, 1)).toBe(1);
  expect(table.walk(0, 0x100000, READ)).toBe(faultCode(FAULT_NOT_PRESENT, 0));
});
