import { EXECUTE, READ, WRITE } from '../../src/memory/index.ts';
import { FAULT_INPUT_SIZE, FAULT_NOT_PRESENT, FAULT_RESERVED } from '../../src/pagetable/page-table.ts';
import type { VtdSecondStageConfig } from '../../src/pagetable/vtd-second-stage.ts';
import { anySet, field, type Rules } from './oracle.ts';

export type VtdVariant = Required<Omit<VtdSecondStageConfig, 'root' | 'allocator'>>;

/** Intel VT-d 4.1, 3.7 (translation, access rights), 3.7.2 (accessed and dirty), 9.8 tables of SS-PML5E to SS-PTE. */
export function vtdRules({ levels, outputBits, pages2M, pages1G, snoopControl, accessedDirty, execute }: VtdVariant): Rules {
  const physical: [number, number] = [51, outputBits];
  const transient: [number, number] = [62, 62];
  const snoop: [number, number][] = snoopControl ? [] : [[11, 11]];
  const large = (level: number) => (level === 1 && pages2M) || (level === 2 && pages1G);
  const granted = (entry: bigint) => Number(field(entry, execute ? 2 : 1, 0));
  return {
    entryBytes: 8,
    bigEndian: false,
    index: Array.from({ length: levels }, (_, level) => [20 + 9 * level, 12 + 9 * level] as const),
    input: (address) => (field(address, 63, 12 + 9 * levels) === 0n ? 0 : FAULT_INPUT_SIZE),
    read: (level, entry) => {
      if (granted(entry) === 0) return { is: 'fault', fault: FAULT_NOT_PRESENT };
      const pageSize = level > 0 && field(entry, 7, 7) === 1n;
      const lg2 = 12 + 9 * level;
      if (level > 0 && !pageSize) {
        if (anySet(entry, [physical, transient, [11, 11]])) return { is: 'fault', fault: FAULT_RESERVED };
        return { is: 'table', address: field(entry, 51, 12) << 12n, next: level - 1 };
      }
      if (level > 0 && !large(level)) return { is: 'fault', fault: FAULT_RESERVED };
      if (anySet(entry, [physical, transient, ...snoop, [lg2 - 1, 12]])) return { is: 'fault', fault: FAULT_RESERVED };
      return { is: 'leaf', address: field(entry, 51, lg2) << BigInt(lg2), lg2, type: Number(field(entry, 6, 3)) };
    },
    grant: (path) => path.map(granted).reduce((all, one) => all & one),
    wishes: (access) => {
      if (execute) return access & (READ | WRITE | EXECUTE);
      return (access & (READ | WRITE)) | ((access & EXECUTE) !== 0 ? READ : 0);
    },
    mark: (_level, entry, access, leaf) => {
      if (!accessedDirty) return entry;
      return entry | (1n << 8n) | (leaf && (access & WRITE) !== 0 ? 1n << 9n : 0n);
    },
    samples: (level, address) => {
      const flags = [3n, 7n, 1n, 2n, 5n, 4n, 0x30bn, 0x33n];
      const within = address & ((1n << BigInt(outputBits)) - 1n);
      const lg2 = BigInt(12 + 9 * level);
      const tables = flags.map((bits) => within | bits);
      const leaves = flags.map((bits) => ((within >> lg2) << lg2) | bits | (level > 0 ? 0x80n : 0n) | (snoopControl ? 0x800n : 0n));
      return level === 0 ? leaves : large(level) ? [...tables, ...tables, ...leaves] : tables;
    },
  };
}
