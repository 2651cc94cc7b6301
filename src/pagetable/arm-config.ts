import { EXECUTE, READ, READ_WRITE, WRITE } from '../memory/access.ts';
import type { Description, Level, TableAllocator } from './page-table.ts';

/** How an Arm table is configured, and which levels that gives it; see the head of arm.ts. */
export interface ArmTableConfig {
  readonly stage: 1 | 2;
  /** CD.TGn, STE.S2TG. */
  readonly granuleLg2: 12 | 14 | 16;
  /** 64 - TnSZ or S2T0SZ. */
  readonly inputBits: number;
  /** CD.IPS, STE.S2PS, or what the SMMU has (IDR5.OAS) if that is less: 32 to 52. */
  readonly outputBits: number;
  /** CD.TTBn, STE.S2TTB: byte address. Bits below the root table's alignment are ignored. */
  readonly root: bigint;
  /** Entries carry 52-bit addresses: 64K granule on an SMMU with 52-bit output (FEAT_LPA), CD.DS or STE.S2DS for the others. Default false. */
  readonly wide?: boolean;
  /** Stage 1: the range of TTB1, whose bits above the input are ones. Default false. */
  readonly upper?: boolean;
  /** Stage 1: CD.TBI, bits 63:56 of the input do not count. Default false. */
  readonly topByteIgnored?: boolean;
  /** Stage 2: Arm's number of the level of the root, from STE.S2SL0. Default: as for stage 1, without concatenation. */
  readonly startLevel?: number;
  /** Stage 1: CD.HPDn, table descriptors carry no permissions. Default false. */
  readonly hierarchyDisabled?: boolean;
  /** Stage 1: the regime has one privilege (STE.STRW selects EL2 without E2H): AP[1], PXN and what tables say of them do not count. Default false. */
  readonly onePrivilege?: boolean;
  /** `enumerate` says what privileged accesses reach, not unprivileged ones. Default false. */
  readonly privileged?: boolean;
  /** Stage 2: XN[0] counts too (FEAT_XNX, SMMU_IDR3.XNX): execution by privilege. Default false. */
  readonly xnx?: boolean;
  /** What a clear Access flag does: an Access flag fault; nothing (CD.AFFD, STE.S2AFFD); or hardware sets it (HA, S2HA). Default fault. */
  readonly accessFlag?: 'fault' | 'ignore' | 'update';
  /** Hardware marks pages with DBM dirty (HD, S2HD); needs `update`. Default false. */
  readonly dirty?: boolean;
  /** Memory type of the leaves that `map` makes: bits 9:2 of the descriptor. Default inner-shareable, AttrIndx 0 or MemAttr write-back. */
  readonly memoryType?: number;
  readonly allocator?: TableAllocator;
}

/** Whether blocks exist (D8.3.1.2, tables D8-52 and D8-53): with 52-bit addresses one level higher. */
function isLeafLevel(granuleLg2: number, level: number, wide: boolean): boolean {
  return level <= (granuleLg2 === 12 ? 2 : 1) + (wide ? 1 : 0);
}

/** D8.7.1, "The Contiguous bit". A run that does not fit its table is no run: the bit is ignored. */
export function joinedLg2(granuleLg2: number, level: number, bits: number): number {
  const lg2 = granuleLg2 === 12 ? [4, 4, 4][level] : granuleLg2 === 14 ? [7, 5][level] : [5, 5][level];
  return lg2 !== undefined && lg2 <= bits ? lg2 : 0;
}

function levelsOf(config: ArmTableConfig): readonly Level[] {
  const { stage, granuleLg2, inputBits, wide = false } = config;
  const stride = granuleLg2 - 3;
  const count = config.startLevel === undefined ? Math.ceil((inputBits - granuleLg2) / stride) : 4 - config.startLevel;
  const rootBits = inputBits - granuleLg2 - stride * (count - 1);
  if (count < 1 || count > 5 || rootBits < 1 || rootBits > stride + (stage === 2 ? 4 : 0))
    throw new RangeError(`Arm table: ${inputBits} input bits do not fit ${count} levels of ${2 ** (granuleLg2 - 10)}K granules`);
  return Array.from({ length: count }, (_, level) => ({
    shift: granuleLg2 + stride * level,
    bits: level === count - 1 ? rootBits : stride,
    leaf: isLeafLevel(granuleLg2, level, wide),
  }));
}

/** @throws RangeError for a configuration that the architecture does not have. */
export function describeArm(config: ArmTableConfig): Description {
  const { stage, granuleLg2, inputBits, outputBits, wide = false } = config;
  const most = wide ? 52 : 48;
  if (outputBits < 32 || outputBits > most) throw new RangeError(`Arm table: ${outputBits} output bits are not 32 to ${most}`);
  // FEAT_LVA: 64K tables take 52 bits whatever their descriptors hold.
  const mostInput = granuleLg2 === 16 ? 52 : most;
  if (inputBits <= granuleLg2 || inputBits > mostInput)
    throw new RangeError(`Arm table: ${inputBits} input bits are not ${granuleLg2 + 1} to ${mostInput}`);
  if (config.dirty && config.accessFlag !== 'update') throw new RangeError('Arm table: dirty state needs the Access flag updated too');
  const levels = levelsOf(config);
  const leaves = levels.filter(({ leaf }) => leaf);
  const joined = leaves.map(({ shift, bits }, level) => shift + joinedLg2(granuleLg2, level, bits));
  const data = [READ, READ_WRITE, ...(stage === 2 ? [WRITE] : [])];
  return {
    format: `arm-stage-${stage}`,
    specification: 'Arm ARM (DDI 0487), D8; SMMUv3 (IHI 0070), 3.4 and 5',
    levels,
    inputBits,
    canonical: false,
    upper: config.upper ?? false,
    outputBits,
    pageLg2s: [...new Set([...leaves.map(({ shift }) => shift), ...joined])].sort((a, b) => a - b),
    permissions: [...data, ...data.map((permission) => permission | EXECUTE)],
    fields: {
      valid: [0, 0],
      tableOrPage: [1, 1],
      ...(stage === 1 ? { attrIndx: [2, 4], ap: [6, 7], ng: [11, 11], pxn: [53, 53], uxn: [54, 54] } : {}),
      ...(stage === 1 ? { pxnTable: [59, 59], uxnTable: [60, 60], apTable: [61, 62] } : { memAttr: [2, 5], s2ap: [6, 7], xn: [53, 54] }),
      ...(wide && granuleLg2 < 16 ? { outputHigh: [8, 9] } : { sh: [8, 9] }),
      ...(wide && granuleLg2 === 16 && { outputHigh: [12, 15] }),
      af: [10, 10],
      output: [granuleLg2, wide && granuleLg2 < 16 ? 49 : 47],
      dbm: [51, 51],
      contiguous: [52, 52],
    },
  };
}
