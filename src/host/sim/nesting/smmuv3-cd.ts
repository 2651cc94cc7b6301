import { hiOf, loOf } from '../../../memory/address.ts';
import { MEM_OK } from '../../../memory/guest-memory.ts';
import { ArmTable } from '../../../pagetable/arm.ts';
import type { TableMemory } from '../../../pagetable/page-table.ts';
import type { PhysicalMemory } from '../memory.ts';
import type { ParentStage } from '../translation.ts';
import { behind, type Tables, tablesOver } from './model.ts';

/** Context descriptors of an SMMUv3 (IHI 0070, 5.4), found as STE.S1Fmt and S1ContextPtr say (5.2). */

export interface ContextDescriptor {
  readonly asid: number;
  readonly lower: Tables | null;
  readonly upper: Tables | null;
}

const CD_BYTES = 64n;
const ADDRESS = 0xf_ffff_ffff_f000n;
/** CD.TG0 and CD.TG1 code the granules differently. */
const GRANULE_LG2_0 = [12, 16, 14] as const;
const GRANULE_LG2_1 = [0, 14, 12, 16] as const;
const OUTPUT_BITS = [32, 36, 40, 42, 44, 48, 52] as const;

function load(memory: TableMemory, address: bigint): bigint | null {
  if (memory.load64(hiOf(address), loOf(address)) !== MEM_OK) return null;
  return (BigInt(memory.word[1] >>> 0) << 32n) | BigInt(memory.word[0] >>> 0);
}

/** The address of a substream's descriptor: in a linear table, or in two levels with leaves of 4 or 64 KiB. */
function locate(memory: TableMemory, ste0: bigint, substream: number): bigint | null {
  const max = Number(ste0 >> 59n);
  if (substream >= 2 ** max) return null;
  const pointer = ste0 & 0xf_ffff_ffff_ffc0n;
  const format = Number((ste0 >> 4n) & 3n);
  if (format === 0 || max === 0) return pointer + BigInt(substream) * CD_BYTES;
  const split = format === 1 ? 6 : 10;
  const first = load(memory, pointer + BigInt(substream >> split) * 8n);
  if (first === null || (first & 1n) === 0n) return null;
  return (first & ADDRESS) + BigInt(substream & ((1 << split) - 1)) * CD_BYTES;
}

/** The descriptor of a substream, or null: there is none that is valid (C_BAD_SUBSTREAMID, C_BAD_CD, F_CD_FETCH). */
export function contextDescriptor(
  parent: ParentStage,
  physical: PhysicalMemory,
  ste0: bigint,
  substream: number,
): ContextDescriptor | null {
  const memory = behind(parent, physical, false);
  const at = locate(memory, ste0, substream);
  if (at === null) return null;
  const cd0 = load(memory, at);
  const ttb0 = load(memory, at + 8n);
  const ttb1 = load(memory, at + 16n);
  if (cd0 === null || ttb0 === null || ttb1 === null) return null;
  const field = (low: number, bits: number) => Number((cd0 >> BigInt(low)) & ((1n << BigInt(bits)) - 1n));
  // V, AA64, and no big-endian tables: the default IDR0 does not say that it has them.
  if (field(31, 1) === 0 || field(41, 1) === 0 || field(15, 1) !== 0) return null;
  const outputBits = OUTPUT_BITS[Math.min(field(32, 3), 5)];
  const table = (upper: boolean, granuleLg2: 12 | 14 | 16, size: number, root: bigint) =>
    tablesOver(
      parent,
      physical,
      (over) =>
        new ArmTable(over, {
          stage: 1,
          granuleLg2,
          inputBits: 64 - size,
          outputBits,
          root: root & 0xf_ffff_ffff_fff0n,
          upper,
          topByteIgnored: field(upper ? 39 : 38, 1) === 1,
          hierarchyDisabled: ((upper ? ttb1 : ttb0) & 2n) !== 0n,
          accessFlag: field(35, 1) === 1 ? 'ignore' : 'fault',
        }),
    );
  try {
    const granule0 = GRANULE_LG2_0[field(6, 2)] as 12 | 14 | 16 | undefined;
    const granule1 = GRANULE_LG2_1[field(22, 2)];
    const enabled0 = field(14, 1) === 0;
    // TG0 3 is reserved (5.4): C_BAD_CD.
    if (enabled0 && granule0 === undefined) return null;
    const lower = enabled0 && granule0 !== undefined ? table(false, granule0, field(0, 6), ttb0) : null;
    const upper = field(30, 1) === 1 || granule1 === 0 ? null : table(true, granule1, field(16, 6), ttb1);
    return { asid: field(48, 16), lower, upper };
  } catch (error) {
    // A size that the architecture does not have: C_BAD_CD.
    if (error instanceof RangeError) return null;
    throw error;
  }
}
