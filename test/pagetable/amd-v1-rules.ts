import { EXECUTE, READ, WRITE } from '../../src/memory/index.ts';
import type { AmdV1Config } from '../../src/pagetable/amd-v1.ts';
import { FAULT_INPUT_SIZE, FAULT_NOT_PRESENT, FAULT_RESERVED } from '../../src/pagetable/page-table.ts';
import { anySet, field, type Reading, type Rules } from './oracle.ts';

export type AmdVariant = Required<Omit<AmdV1Config, 'root' | 'allocator'>>;

/** AMD IOMMU 48882 rev 3.10, 2.2.3: tables 14 (encoded sizes), 15 (level parameters), 16 and 17 (fields of entries). */
export function amdRules({ levels, accessedDirty }: AmdVariant): Rules {
  const lowest = (level: number) => 12 + 9 * level;
  return {
    entryBytes: 8,
    bigEndian: false,
    index: Array.from({ length: levels }, (_, level) => [level === 5 ? 63 : 20 + 9 * level, lowest(level)] as const),
    input: (address) => (levels === 6 || field(address, 63, lowest(levels)) === 0n ? 0 : FAULT_INPUT_SIZE),
    read: (level, entry, input) => {
      const reserved: Reading = { is: 'fault', fault: FAULT_RESERVED };
      if (field(entry, 0, 0) === 0n) return { is: 'fault', fault: FAULT_NOT_PRESENT };
      const nextLevel = Number(field(entry, 11, 9));
      if (nextLevel > 0 && nextLevel < 7) {
        if (anySet(entry, [[60, 52]])) return reserved;
        // The specification counts levels from 1: this table is of level + 1, and the next one must be lower.
        if (nextLevel > level) return reserved;
        if (nextLevel < level && anySet(input, [[lowest(level) - 1, lowest(nextLevel)]])) return { is: 'fault', fault: FAULT_NOT_PRESENT };
        return { is: 'table', address: field(entry, 51, 12) << 12n, next: nextLevel - 1 };
      }
      if (anySet(entry, [[58, 52]]) || level === 5) return reserved;
      const lg2 = nextLevel === 0 ? lowest(level) : encodedSize(entry);
      if (lg2 > 51 || (nextLevel === 7 && (lg2 <= lowest(level) || lg2 >= lowest(level + 1)))) return reserved;
      return { is: 'leaf', address: field(entry, 51, lg2) << BigInt(lg2), lg2, type: Number(field(entry, 60, 59)) };
    },
    grant: (path) => path.map((entry) => Number(field(entry, 62, 61))).reduce((all, one) => all & one),
    wishes: (access) => (access & (READ | WRITE)) | ((access & EXECUTE) !== 0 ? READ : 0),
    mark: (_level, entry, access, leaf) => {
      if (accessedDirty === 'none') return entry;
      return entry | (1n << 5n) | (leaf && accessedDirty === 'both' && (access & WRITE) !== 0 ? 1n << 6n : 0n);
    },
    samples: (level, address) => {
      const rights = [3n << 61n, 1n << 61n, 2n << 61n, 0n, (3n << 61n) | 0x7en];
      const base = (lg2: number) => (field(address, 51, lg2) << BigInt(lg2)) | 1n;
      const tables = rights.flatMap((bits) => [level, level, level - 1].map((next) => base(12) | (BigInt(Math.max(next, 1)) << 9n) | bits));
      // 2^52 bytes would be one more than a level 4 entry can say (table 15): a sample that must fault.
      const sizes = [1, 2, 4, 8].map((more) => lowest(level) + more).filter((lg2) => lg2 <= 52);
      const encoded = sizes.map((lg2) => base(lg2) | ((1n << BigInt(lg2 - 1)) - (1n << 12n)) | (7n << 9n));
      const leaves = rights.flatMap((bits) => [base(lowest(level)), ...encoded].map((entry) => entry | bits));
      return level === 0 ? leaves : level === 5 ? tables : [...tables, ...leaves];
    },
  };
}

/** Table 14: the lowest zero from bit 12 on is the highest bit below the page's address. */
function encodedSize(entry: bigint): number {
  for (let bit = 12; bit <= 51; bit++) if (field(entry, bit, bit) === 0n) return bit + 1;
  return 64;
}
