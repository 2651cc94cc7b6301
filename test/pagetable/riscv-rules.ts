import { EXECUTE, READ, WRITE } from '../../src/memory/index.ts';
import { FAULT_INPUT_SIZE, FAULT_NOT_PRESENT, FAULT_RESERVED } from '../../src/pagetable/page-table.ts';
import type { RiscvMode, RiscvTableConfig } from '../../src/pagetable/riscv.ts';
import { anySet, field, type Reading, type Rules } from './oracle.ts';

export type RiscvVariant = Required<Omit<RiscvTableConfig, 'root' | 'allocator' | 'memory' | 'inputBits'>>;

const LEVELS: Readonly<Record<RiscvMode, number>> = { sv32: 2, sv39: 3, sv48: 4, sv57: 5 };

const bit = (entry: bigint, at: number) => field(entry, at, at) === 1n;

/**
 * RISC-V Privileged Architecture 20240411: 11.3.1 and 11.4.1 (entries), 11.3.2 (the walk), Svnapot table "Page table entry
 * encodings when pte.N=1", Svpbmt, Svadu, 18.5.1 (second stages); Svrsw60t59b.
 */
export function riscvRules(variant: RiscvVariant): Rules {
  const { mode, secondStage, bigEndian, svpbmt, svrsw60t59b, updateAccessedDirty, sum } = variant;
  const narrow = mode === 'sv32';
  const levels = LEVELS[mode];
  const bits = narrow ? 10 : 9;
  const highest = (level: number) => 11 + bits * (level + 1) + (secondStage && level === levels - 1 ? 2 : 0);
  const lg2Of = (level: number) => 12 + bits * level;
  const ppn: [number, number] = narrow ? [31, 10] : [53, 10];
  const reserved: [number, number][] = narrow ? [] : [[58, 54]];
  if (!narrow && !svrsw60t59b) reserved.push([60, 59]);
  if (!narrow && !svpbmt) reserved.push([62, 61]);
  const address = (entry: bigint) => field(entry, ...ppn) << 12n;
  const isLeaf = (entry: bigint) => bit(entry, 1) || bit(entry, 3);

  const read = (level: number, entry: bigint): Reading => {
    const malformed: Reading = { is: 'fault', fault: FAULT_RESERVED };
    if (!bit(entry, 0)) return { is: 'fault', fault: FAULT_NOT_PRESENT };
    if (bit(entry, 2) && !bit(entry, 1)) return malformed;
    if (anySet(entry, reserved) || (!narrow && field(entry, 62, 61) === 3n)) return malformed;
    const napot = !narrow && bit(entry, 63);
    if (!isLeaf(entry)) {
      const clear = !bit(entry, 4) && !bit(entry, 6) && !bit(entry, 7) && !napot && (narrow || field(entry, 62, 61) === 0n);
      return level > 0 && clear ? { is: 'table', address: address(entry), next: level - 1 } : malformed;
    }
    const type = narrow ? 0 : Number(field(entry, 62, 61));
    if (napot) {
      if (level > 0 || field(entry, 13, 10) !== 8n) return malformed;
      return { is: 'leaf', address: address(entry) - 0x8000n, lg2: 16, type };
    }
    const lg2 = lg2Of(level);
    return address(entry) % (1n << BigInt(lg2)) === 0n ? { is: 'leaf', address: address(entry), lg2, type } : malformed;
  };

  return {
    entryBytes: narrow ? 4 : 8,
    bigEndian,
    index: Array.from({ length: levels }, (_, level) => [highest(level), lg2Of(level)] as const),
    input: (input) => {
      const top = highest(levels - 1);
      if (secondStage || narrow) return input >> BigInt(top + 1) === 0n ? 0 : FAULT_INPUT_SIZE;
      return BigInt.asUintN(64, BigInt.asIntN(top + 1, input)) === input ? 0 : FAULT_INPUT_SIZE;
    },
    read,
    grant: (path, privileged) => {
      const entry = path[path.length - 1];
      // Where nobody sets D, a clean page is as good as read-only.
      const writable = bit(entry, 2) && (updateAccessedDirty || bit(entry, 7));
      const all = (bit(entry, 1) ? READ : 0) | (writable ? WRITE : 0) | (bit(entry, 3) ? EXECUTE : 0);
      const user = bit(entry, 4);
      if (secondStage || !privileged) return user ? all : 0;
      if (!user) return all;
      return sum ? all & ~EXECUTE : 0;
    },
    wishes: (access) => access & (READ | WRITE | EXECUTE),
    mark: (_level, entry, access, leaf) => {
      if (!leaf) return entry;
      const marked = entry | (1n << 6n) | ((access & WRITE) !== 0 && bit(entry, 2) ? 1n << 7n : 0n);
      return updateAccessedDirty || marked === entry ? marked : null;
    },
    samples: (level, at) => {
      const within = at & ((1n << (narrow ? 34n : 56n)) - 1n);
      const pointer = (within >> 12n) << 10n;
      const lg2 = BigInt(lg2Of(level));
      const page = (((within >> lg2) << lg2) >> 12n) << 10n;
      const leaves = [0xdfn, 0x5fn, 0x1fn, 0xd3n, 0xcfn, 0xd9n, 0xf7n].map((flags) => page | flags);
      if (level > 0) return [pointer | 1n, pointer | 1n, pointer | 0x21n, pointer | 1n, ...leaves];
      const napot = (((within >> 16n) << 16n) >> 12n) << 10n;
      return narrow ? leaves : [...leaves, napot | (8n << 10n) | 0xdfn | (1n << 63n)];
    },
  };
}
