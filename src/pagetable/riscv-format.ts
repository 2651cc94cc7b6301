import { EXECUTE, READ, WRITE } from '../memory/access.ts';
import type { Description, TableMemory } from './page-table.ts';
import type { RadixConfig } from './radix.ts';

/*
 * RISC-V page tables: The RISC-V Instruction Set Manual, Volume II: Privileged Architecture (20240411), chapters
 * "Supervisor-Level ISA" (Sv32 11.3, Sv39 11.4, Sv48 11.5, Sv57 11.6), "Svnapot", "Svpbmt", "Svadu", and "Two-Stage Address
 * Translation" (18.5) for the x4 second stages; Svrsw60t59b: bits 60 and 59 belong to software.
 *
 *   mode   levels  entry  index bits           page sizes
 *   Sv32   2       4      10 (root of x4: 12)  4 KiB, 4 MiB
 *   Sv39   3       8      9 (root of x4: 11)   4 KiB, 64 KiB (NAPOT), 2 MiB, 1 GiB
 *   Sv48   4       8      9 (root of x4: 11)   and 512 GiB
 *   Sv57   5       8      9 (root of x4: 11)   and 256 TiB
 */

export type RiscvMode = 'sv32' | 'sv39' | 'sv48' | 'sv57';

export interface RiscvTableConfig extends RadixConfig {
  readonly mode: RiscvMode;
  /** The x4 format of a second stage: two more input bits in a 16 KiB root, and every access is a user's. */
  readonly secondStage?: boolean;
  /** Input bits, where fewer than the mode's are taken: what lies above is refused as what lies above the mode's (the IOMMU's DC.tc.SXL). */
  readonly inputBits?: number;
  readonly memory: TableMemory;
  readonly bigEndian?: boolean;
  readonly svpbmt?: boolean;
  readonly svrsw60t59b?: boolean;
  /** Sets A and D instead of faulting where they are clear (Svadu; the IOMMU's DC.tc.SADE and GADE). */
  readonly updateAccessedDirty?: boolean;
  /** sstatus.SUM: privileged accesses reach user pages, fetches excepted. */
  readonly sum?: boolean;
}

export const LEVELS: Readonly<Record<RiscvMode, number>> = { sv32: 2, sv39: 3, sv48: 4, sv57: 5 };
const INPUT_BITS: Readonly<Record<RiscvMode, number>> = { sv32: 32, sv39: 39, sv48: 48, sv57: 57 };

/** W without R is reserved (11.3.1). */
const PERMISSIONS: readonly number[] = [READ, EXECUTE, READ | WRITE, READ | EXECUTE, READ | WRITE | EXECUTE];

export function inputBitsOf({ mode, secondStage = false, inputBits = 64 }: RiscvTableConfig): number {
  return Math.min(INPUT_BITS[mode] + (secondStage ? 2 : 0), inputBits);
}

export function describe(config: RiscvTableConfig): Description {
  const { mode, secondStage = false, svpbmt = false } = config;
  const count = LEVELS[mode];
  const narrow = mode === 'sv32';
  const bits = narrow ? 10 : 9;
  const levels = Array.from({ length: count }, (_, level) => ({
    shift: 12 + level * bits,
    bits: bits + (secondStage && level === count - 1 ? 2 : 0),
    leaf: true,
  }));
  const shifts = levels.map(({ shift }) => shift);
  return {
    format: `riscv-${mode}${secondStage ? 'x4' : ''}`,
    specification: `RISC-V Privileged Architecture 20240411, ${secondStage ? '18.5 Two-Stage Address Translation' : SECTIONS[mode]}`,
    levels,
    inputBits: inputBitsOf(config),
    canonical: !secondStage && !narrow,
    outputBits: narrow ? 34 : 56,
    pageLg2s: narrow ? shifts : [12, 16, ...shifts.slice(1)],
    permissions: PERMISSIONS,
    fields: {
      V: [0, 0],
      R: [1, 1],
      W: [2, 2],
      X: [3, 3],
      U: [4, 4],
      G: [5, 5],
      A: [6, 6],
      D: [7, 7],
      PPN: narrow ? [10, 31] : [10, 53],
      ...(!narrow && { N: [63, 63] }),
      ...(!narrow && svpbmt && { PBMT: [61, 62] }),
    },
  };
}

const SECTIONS: Readonly<Record<RiscvMode, string>> = { sv32: '11.3', sv39: '11.4', sv48: '11.5', sv57: '11.6' };
