import { hiOf, loOf } from '../../../memory/address.ts';
import { MEM_OK } from '../../../memory/guest-memory.ts';
import { ArmTable } from '../../../pagetable/arm.ts';
import type { TableMemory } from '../../../pagetable/page-table.ts';
import type { PhysicalMemory } from '../memory.ts';
import type { ParentStage } from '../translation.ts';
import { behind, type Tables, tablesOver } from './model.ts';

/** Context descriptors of an SMMUv3 (IHI 0070, 5.4), found as STE.S1Fmt and S1ContextPtr say (5.2). */

/** There is no such substream; its descriptor is not one that this hardware takes; the host has taken the memory that it lies in. */
export const BAD_SUBSTREAM = 'C_BAD_SUBSTREAMID';
export const BAD_DESCRIPTOR = 'C_BAD_CD';
const NO_FETCH = 'F_CD_FETCH';

export interface ContextDescriptor {
  readonly asid: number;
  /** Faults become events (CD.R). */
  readonly records: boolean;
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

/** The address of a substream's descriptor, or why there is none: in a linear table, or in two levels with leaves of 4 or 64 KiB. */
function locate(memory: TableMemory, ste0: bigint, substream: number): bigint | string {
  const max = Number(ste0 >> 59n);
  if (substream >= 2 ** max) return BAD_SUBSTREAM;
  const pointer = ste0 & 0xf_ffff_ffff_ffc0n;
  const format = Number((ste0 >> 4n) & 3n);
  if (format === 0 || max === 0) return pointer + BigInt(substream) * CD_BYTES;
  const split = format === 1 ? 6 : 10;
  const first = load(memory, pointer + BigInt(substream >> split) * 8n);
  if (first === null) return NO_FETCH;
  if ((first & 1n) === 0n) return BAD_SUBSTREAM;
  return (first & ADDRESS) + BigInt(substream & ((1 << split) - 1)) * CD_BYTES;
}

/** Whether hardware of this IDR0 takes what the descriptor asks for beside its tables (5.4). */
function isLegal(idr: readonly number[], field: (low: number, bits: number) => number): boolean {
  const [idr0] = idr;
  const updates = (idr0 >>> 6) & 3;
  const stallModel = (idr0 >>> 24) & 3;
  const terminates = ((idr0 >>> 26) & 1) !== 0;
  // V, AA64, and no big-endian tables: no IDR0 here says that it has them.
  if (field(31, 1) === 0 || field(41, 1) === 0 || field(15, 1) !== 0) return false;
  // T0SZ and T1SZ of the tables that are enabled: to 39, or to 48 with small tables (IDR3.STT).
  const smallest = ((idr[3] >>> 9) & 1) === 1 ? 48 : 39;
  if ((field(14, 1) === 0 && field(0, 6) > smallest) || (field(30, 1) === 0 && field(16, 6) > smallest)) return false;
  // HA, HD
  if ((field(43, 1) === 1 && updates === 0) || (field(42, 1) === 1 && updates < 2)) return false;
  // A, S
  if (terminates && field(46, 1) === 0) return false;
  return stallModel === 0 || field(44, 1) === (stallModel === 2 ? 1 : 0);
}

/** The descriptor of a substream, or why there is none. `idr`: IDR0 to IDR5. */
export function contextDescriptor(
  parent: ParentStage,
  physical: PhysicalMemory,
  idr: readonly number[],
  ste0: bigint,
  substream: number,
): ContextDescriptor | string {
  const memory = behind(parent, physical, false);
  const at = locate(memory, ste0, substream);
  if (typeof at === 'string') return at;
  const cd0 = load(memory, at);
  const ttb0 = load(memory, at + 8n);
  const ttb1 = load(memory, at + 16n);
  if (cd0 === null || ttb0 === null || ttb1 === null) return NO_FETCH;
  const field = (low: number, bits: number) => Number((cd0 >> BigInt(low)) & ((1n << BigInt(bits)) - 1n));
  if (!isLegal(idr, field)) return BAD_DESCRIPTOR;
  // AFFD counts where hardware does not set the flag itself.
  const accessFlag = field(43, 1) === 1 ? 'update' : field(35, 1) === 1 ? 'ignore' : 'fault';
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
          accessFlag,
          dirty: field(43, 1) === 1 && field(42, 1) === 1,
        }),
    );
  try {
    const granule0 = GRANULE_LG2_0[field(6, 2)] as 12 | 14 | 16 | undefined;
    const granule1 = GRANULE_LG2_1[field(22, 2)];
    const enabled0 = field(14, 1) === 0;
    // TG0 3 is reserved.
    if (enabled0 && granule0 === undefined) return BAD_DESCRIPTOR;
    const lower = enabled0 && granule0 !== undefined ? table(false, granule0, field(0, 6), ttb0) : null;
    const upper = field(30, 1) === 1 || granule1 === 0 ? null : table(true, granule1, field(16, 6), ttb1);
    return { asid: field(48, 16), records: field(45, 1) === 1, lower, upper };
  } catch (error) {
    // A size that the architecture does not have.
    if (error instanceof RangeError) return BAD_DESCRIPTOR;
    throw error;
  }
}
