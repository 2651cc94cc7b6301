import { EXECUTE, READ, WRITE } from '../../src/memory/index.ts';
import { ArmTable, type ArmTableConfig } from '../../src/pagetable/arm.ts';
import {
  FAULT_ACCESS_FLAG,
  FAULT_INPUT_SIZE,
  FAULT_NOT_PRESENT,
  FAULT_OUTPUT_SIZE,
  FAULT_RESERVED,
} from '../../src/pagetable/page-table.ts';
import { field, type Rules } from './oracle.ts';
import { testFormat } from './suite.ts';

export type ArmVariant = Omit<ArmTableConfig, 'root' | 'allocator'>;

/** Arm ARM D8.2 (lookup levels), D8.3 (descriptors), D8.4 (permissions), D8.5 (Access flag, dirty state), D8.7 (Contiguous). */
function armRules(variant: ArmVariant): Rules {
  const { stage, granuleLg2, inputBits, outputBits, wide = false, accessFlag = 'fault', dirty = false } = variant;
  const stride = granuleLg2 - 3;
  const start = variant.startLevel ?? 4 - Math.ceil((inputBits - granuleLg2) / stride);
  const index = Array.from({ length: 4 - start }, (_, level) => {
    const lowest = granuleLg2 + level * stride;
    return [level === 3 - start ? inputBits - 1 : lowest + stride - 1, lowest] as const;
  });
  // D8.3.1.2: where a block may stand, by granule and Arm's level.
  const blocks = { 12: wide ? [0, 1, 2] : [1, 2], 14: wide ? [1, 2] : [2], 16: wide ? [1, 2] : [2] }[granuleLg2];
  const joined: Record<string, number> = { '12.1': 16, '12.2': 16, '12.3': 16, '14.2': 32, '14.3': 128, '16.2': 32, '16.3': 32 };
  const address = (entry: bigint): bigint => {
    const low = field(entry, 47, granuleLg2) << BigInt(granuleLg2);
    if (!wide) return low;
    if (granuleLg2 === 16) return low | (field(entry, 15, 12) << 48n);
    return low | (field(entry, 49, 48) << 48n) | (field(entry, 9, 8) << 50n);
  };
  const bit = (entry: bigint, at: number) => field(entry, at, at) === 1n;
  const isWritable = (entry: bigint) => bit(entry, 7) === (stage === 2) || (dirty && bit(entry, 51));
  return {
    entryBytes: 8,
    bigEndian: false,
    index,
    input: (input) => {
      const above = field(input, variant.topByteIgnored ? 55 : 63, inputBits);
      const ones = field(2n ** 64n - 1n, variant.topByteIgnored ? 55 : 63, inputBits);
      return above === (variant.upper ? ones : 0n) ? 0 : FAULT_INPUT_SIZE;
    },
    read: (level, entry, input) => {
      if (!bit(entry, 0)) return { is: 'fault', fault: FAULT_NOT_PRESENT };
      const table = level > 0 && bit(entry, 1);
      if (!table && (level === 0 ? !bit(entry, 1) : !blocks.includes(3 - level))) return { is: 'fault', fault: FAULT_RESERVED };
      const out = address(entry);
      if (out >> BigInt(outputBits) !== 0n) return { is: 'fault', fault: FAULT_OUTPUT_SIZE };
      if (table) return { is: 'table', address: out, next: level - 1 };
      // An Access flag fault comes before a Permission fault (D8.15.5).
      if (!bit(entry, 10) && accessFlag === 'fault') return { is: 'fault', fault: FAULT_ACCESS_FLAG };
      const [highest, lowest] = index[level];
      const run = joined[`${granuleLg2}.${3 - level}`] ?? 1;
      // D8.7.1.1: a misprogrammed run may be translated by each entry alone.
      const fits = run <= 2 ** (highest - lowest + 1) && (out >> BigInt(lowest)) % BigInt(run) === (input >> BigInt(lowest)) % BigInt(run);
      const lg2 = lowest + (bit(entry, 52) && fits ? Math.log2(run) : 0);
      const sh = wide && granuleLg2 < 16 ? 0n : field(entry, 9, 8) << 8n;
      return {
        is: 'leaf',
        address: (out >> BigInt(lg2)) << BigInt(lg2),
        lg2,
        // Of stage 1 nG too: a TLB has to know it.
        type: Number((field(entry, stage === 1 ? 4 : 5, 2) << 2n) | sh | (stage === 1 ? field(entry, 11, 11) << 11n : 0n)),
      };
    },
    grant: (path, privileged) => {
      const leaf = path[path.length - 1];
      if (stage === 2) {
        const xn = Number(field(leaf, 54, 53));
        const executes = variant.xnx ? xn === 0 || xn === (privileged ? 3 : 1) : xn < 2;
        return (bit(leaf, 6) ? READ : 0) | (isWritable(leaf) ? WRITE : 0) | (executes ? EXECUTE : 0);
      }
      const tables = variant.hierarchyDisabled ? [] : path.slice(0, -1);
      const user = bit(leaf, 6) && !tables.some((entry) => bit(entry, 61));
      const writable = isWritable(leaf) && !tables.some((entry) => bit(entry, 62));
      const uxn = bit(leaf, 54) || tables.some((entry) => bit(entry, 60));
      const pxn = bit(leaf, 53) || tables.some((entry) => bit(entry, 59));
      if (!privileged) return (user ? READ | (writable ? WRITE : 0) : 0) | (uxn ? 0 : EXECUTE);
      return READ | (writable ? WRITE : 0) | (pxn || (user && writable) ? 0 : EXECUTE);
    },
    wishes: (access) => access & (READ | WRITE | EXECUTE),
    mark: (_level, entry, access, leaf) => {
      if (!leaf || accessFlag !== 'update') return entry;
      const clean = stage === 1 ? entry & ~(1n << 7n) : entry | (1n << 7n);
      return (dirty && bit(entry, 51) && access & WRITE ? clean : entry) | (1n << 10n);
    },
    samples: (level, to) => {
      const arm = 3 - level;
      const within = to & ((1n << BigInt(outputBits)) - 1n);
      let high = 0n;
      if (wide) high = granuleLg2 === 16 ? field(within, 51, 48) << 12n : (field(within, 51, 50) << 8n) | (field(within, 49, 48) << 48n);
      const at = (lg2: number) => (field(within, 47, lg2) << BigInt(lg2)) | high;
      const tables = [3n, 3n, 3n | (1n << 62n), 3n | (1n << 61n), 3n | (3n << 59n)].map((bits) => bits | at(granuleLg2));
      const kind = level === 0 ? 3n : 1n;
      const flags = [
        0x7c0n,
        0x740n,
        0x480n,
        0x4c0n | (1n << 51n),
        0x440n | (1n << 51n),
        0x040n,
        0x4c0n | (3n << 53n),
        0x440n | (1n << 52n),
      ];
      const leaves = flags.map((bits) => bits | kind | at(index[level][1]));
      if (level === 0) return leaves;
      return blocks.includes(arm) ? [...tables, ...leaves] : tables;
    },
  };
}

/** The shared body over one configuration. */
export function testArm(variant: ArmVariant): void {
  const { stage, granuleLg2, inputBits, outputBits, ...rest } = variant;
  const more = Object.entries(rest).map(([key, value]) => (value === true ? key : `${key} ${value}`));
  testFormat({
    name: [`Arm stage ${stage}, ${2 ** (granuleLg2 - 10)}K`, `${inputBits} bits in`, `${outputBits} out`, ...more].join(', '),
    rules: armRules(variant),
    create: (memory, root, allocator) => new ArmTable(memory, { ...variant, root: BigInt(root) * 4096n, allocator }),
  });
}
