import { PRIVILEGED } from '../../src/memory/index.ts';
import { FAULT_ACCESS_FLAG, FAULT_PERMISSION, FAULT_TABLE_ACCESS, type FaultKind } from '../../src/pagetable/page-table.ts';

/**
 * The brute-force oracle: an interpreter of tables in BigInt, slow and obvious, that shares no code with the walkers. A
 * format hands in its rules, written down from its specification's tables.
 */

/** What an entry is, read alone. */
export type Reading =
  | { readonly is: 'fault'; readonly fault: FaultKind }
  | { readonly is: 'table'; readonly address: bigint; readonly next: number }
  /** The entry is part of a mapping of 2^lg2 bytes whose first byte is at `address`. */
  | { readonly is: 'leaf'; readonly address: bigint; readonly lg2: number; readonly type: number };

export interface Rules {
  readonly entryBytes: 4 | 8;
  readonly bigEndian: boolean;
  /** Input bits that index each level's table, as [highest, lowest], from the leaf level up. */
  readonly index: readonly (readonly [number, number])[];
  /** The fault of an input address that the table cannot translate, or 0. */
  input(address: bigint): FaultKind | 0;
  read(level: number, entry: bigint, input: bigint): Reading;
  /** What the entries of a path (root first) grant together to an access of that privilege. */
  grant(path: readonly bigint[], privileged: boolean): number;
  /** Wishes that the format can tell apart; of an access only these are checked. A fetch counts as a read where it cannot. */
  wishes(access: number): number;
  /** The entry as the access leaves it (accessed, dirty), or null where that is a fault. */
  mark(level: number, entry: bigint, access: number, leaf: boolean): bigint | null;
  /** Well-formed entries of a level that point to `address`, or map the page around it: raw material of random tables. */
  samples(level: number, address: bigint): readonly bigint[];
}

/** Bytes of guest memory as the oracle sees them: the value at an address, undefined outside RAM. */
export interface OracleMemory {
  load(address: bigint, bytes: number, bigEndian: boolean): bigint | undefined;
  store(address: bigint, bytes: number, bigEndian: boolean, value: bigint): void;
}

export type Verdict =
  | { readonly fault: FaultKind; readonly level: number }
  | { readonly output: bigint; readonly lg2: number; readonly permission: number; readonly type: number };

/** Bits [highest, lowest] of a value, moved down to bit 0. */
export function field(value: bigint, highest: number, lowest: number): bigint {
  return (value >> BigInt(lowest)) & ((1n << BigInt(highest - lowest + 1)) - 1n);
}

/** Whether any of the bit ranges [highest, lowest] is not zero. */
export function anySet(value: bigint, ranges: readonly (readonly [number, number])[]): boolean {
  return ranges.some(([highest, lowest]) => highest >= lowest && field(value, highest, lowest) !== 0n);
}

/** `access` null: the translation alone, whoever asks for whatever; marks nothing. */
export function oracleWalk(rules: Rules, memory: OracleMemory, root: bigint, input: bigint, access: number | null): Verdict {
  let level = rules.index.length - 1;
  const bad = rules.input(input);
  if (bad !== 0) return { fault: bad, level };
  const path: bigint[] = [];
  for (let table = root; ; ) {
    const [highest, lowest] = rules.index[level];
    const at = table + field(input, highest, lowest) * BigInt(rules.entryBytes);
    const entry = memory.load(at, rules.entryBytes, rules.bigEndian);
    if (entry === undefined) return { fault: FAULT_TABLE_ACCESS, level };
    const reading = rules.read(level, entry, input);
    if (reading.is === 'fault') return { fault: reading.fault, level };
    path.push(entry);
    const permission = rules.grant(path, ((access ?? 0) & PRIVILEGED) !== 0);
    const leaf = reading.is === 'leaf';
    if (leaf && access !== null && (rules.wishes(access) & ~permission) !== 0) return { fault: FAULT_PERMISSION, level };
    const marked = rules.mark(level, entry, access ?? 0, leaf);
    if (marked === null) return { fault: FAULT_ACCESS_FLAG, level };
    if (access !== null && marked !== entry) memory.store(at, rules.entryBytes, rules.bigEndian, marked);
    if (leaf) {
      const inside = input & ((1n << BigInt(reading.lg2)) - 1n);
      return { output: reading.address + inside, lg2: reading.lg2, permission, type: reading.type };
    }
    table = reading.address;
    level = reading.next;
  }
}
