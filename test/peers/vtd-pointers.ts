import type { GuestMemory } from '../../src/memory/guest-memory.ts';
import { hiOf, join, loOf } from '../../src/memory/index.ts';
import { TESTDEV } from './q35.ts';
import { Page } from './vtd-machine.ts';

/* What the structures of the guest lead to, followed as they are, for what a step can be explained by (9.1 to 9.8). */

const ADDRESS = 0x000f_ffff_ffff_f000n;

/** What a request of the device finds, where it can be read; 0 where it cannot. */
export interface Found {
  /** Lower doubleword of the context entry. */
  readonly context: bigint;
  /** Of scalable mode: the directory entry, and the lower doubleword of the PASID table entry. */
  readonly directory: bigint;
  readonly pasidEntry: bigint;
  /** The entries on the way of the address, down to the one that ends a walk. */
  readonly walked: readonly bigint[];
}

function load(memory: GuestMemory, address: bigint): bigint {
  return memory.load64(hiOf(address), loOf(address)) < 0 ? 0n : join(memory.word);
}

/** `iova` null: no address, so nothing is walked. */
export function found(memory: GuestMemory, mode: string, iova: bigint | null): Found {
  const at = BigInt(Page.context + TESTDEV * (mode === 'legacy' ? 16 : 32));
  const context = load(memory, at);
  if (mode === 'legacy') {
    const levels = Number(load(memory, at + 8n) & 7n) + 2;
    return { context, directory: 0n, pasidEntry: 0n, walked: walk(memory, context & ADDRESS, levels, false, iova) };
  }
  const directory = load(memory, context & ADDRESS);
  const entry = directory & ADDRESS;
  const pasidEntry = load(memory, entry);
  const first = mode === 'first stage';
  const root = (first ? load(memory, entry + 16n) : pasidEntry) & ADDRESS;
  const levels = first ? 4 : Number((pasidEntry >> 2n) & 7n) + 2;
  return { context, directory, pasidEntry, walked: walk(memory, root, levels, first, iova) };
}

function walk(memory: GuestMemory, root: bigint, levels: number, first: boolean, iova: bigint | null): bigint[] {
  const entries: bigint[] = [];
  if (iova === null) return entries;
  let table = root;
  for (let level = levels - 1; level >= 0; level--) {
    const entry = load(memory, table + ((iova >> BigInt(12 + 9 * level)) & 511n) * 8n);
    entries.push(entry);
    if ((entry & (first ? 1n : 3n)) === 0n || (entry & 0x80n) !== 0n) break;
    table = entry & ADDRESS;
  }
  return entries;
}
