import { EXECUTE, READ, WRITE } from '../../src/memory/index.ts';
import { FAULT_INPUT_SIZE, FAULT_NOT_PRESENT, FAULT_RESERVED } from '../../src/pagetable/page-table.ts';
import type { X86Config } from '../../src/pagetable/x86.ts';
import { anySet, field, type Rules } from './oracle.ts';

export type X86Variant = Required<Omit<X86Config, 'root' | 'allocator'>>;

/** Intel SDM volume 3A, 5.5.4 tables 5-15 to 5-20 (bits of the entries), 5.6.1 (rights), 5.8 (accessed and dirty). */
export function x86Rules({ levels, outputBits, gigabytePages, noExecute, writeProtect, extendedAccessed }: X86Variant): Rules {
  const physical: [number, number] = [51, outputBits];
  const everywhere: [number, number][] = noExecute ? [physical] : [physical, [63, 63]];
  const large = (level: number) => (level === 1 || (level === 2 && gigabytePages)) as boolean;
  return {
    entryBytes: 8,
    bigEndian: false,
    index: Array.from({ length: levels }, (_, level) => [20 + 9 * level, 12 + 9 * level] as const),
    input: (address) => {
      const top = field(address, 63, levels * 9 + 11);
      return top === 0n || top === (1n << BigInt(64 - (levels * 9 + 11))) - 1n ? 0 : FAULT_INPUT_SIZE;
    },
    read: (level, entry) => {
      if (field(entry, 0, 0) === 0n) return { is: 'fault', fault: FAULT_NOT_PRESENT };
      if (anySet(entry, everywhere)) return { is: 'fault', fault: FAULT_RESERVED };
      const pageSize = field(entry, 7, 7) === 1n;
      if (level > 0 && !pageSize) return { is: 'table', address: field(entry, 51, 12) << 12n, next: level - 1 };
      if (level > 0 && !large(level)) return { is: 'fault', fault: FAULT_RESERVED };
      const lg2 = 12 + 9 * level;
      if (level > 0 && anySet(entry, [[lg2 - 1, 13]])) return { is: 'fault', fault: FAULT_RESERVED };
      const pat = level > 0 ? field(entry, 12, 12) : field(entry, 7, 7);
      return { is: 'leaf', address: field(entry, 51, lg2) << BigInt(lg2), lg2, type: Number(field(entry, 4, 3) + 4n * pat) };
    },
    grant: (path, privileged) => {
      const all = (bit: number) => path.every((entry) => field(entry, bit, bit) === 1n);
      if (!privileged && !all(2)) return 0;
      const writable = all(1) || (privileged && !writeProtect);
      const executable = noExecute && path.every((entry) => field(entry, 63, 63) === 0n);
      return READ | (writable ? WRITE : 0) | (executable ? EXECUTE : 0);
    },
    wishes: (access) => access & (noExecute ? READ | WRITE | EXECUTE : READ | WRITE),
    mark: (_level, entry, access, leaf) => {
      const dirty = leaf && (access & WRITE) !== 0 ? 1n << 6n : 0n;
      return entry | (1n << 5n) | (extendedAccessed ? 1n << 10n : 0n) | dirty;
    },
    samples: (level, address) => {
      const flags = [7n, 5n, 3n, 0x67n, 1n, 7n | (1n << 63n)].map((bits) => bits & ~(noExecute ? 0n : 1n << 63n));
      const within = address & ((1n << BigInt(outputBits)) - 1n);
      const tables = flags.map((bits) => within | bits);
      const lg2 = BigInt(12 + 9 * level);
      const leaves = flags.map((bits) => ((within >> lg2) << lg2) | bits | (level > 0 ? 0x80n : 0n));
      return level === 0 ? leaves : large(level) ? [...tables, ...tables, ...leaves] : tables;
    },
  };
}
