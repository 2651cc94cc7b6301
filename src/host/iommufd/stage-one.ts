import { require64, requireArray, requireNumber, requireObject } from '../../memory/arguments.ts';
/** A first stage in the hardware's own terms, as IOMMU_HWPT_ALLOC wants it. */
export interface StageOneData {
  /** enum iommu_hwpt_data_type */
  readonly type: number;
  readonly bytes: Uint8Array;
}

const TYPE_VTD_S1 = 1;
const TYPE_ARM_SMMUV3 = 2;
const TYPE_AMD_GUEST = 3;

/** enum iommu_hwpt_vtd_s1_flags */
const SRE = 1n;
const EAFE = 2n;
const WPE = 4n;

export interface VtdStage1 {
  /** Guest-physical address of the root table. */
  readonly root: bigint;
  readonly addressWidth: 48 | 57;
  /** Supervisor requests are allowed; extended accessed bits are set; supervisor writes obey R/W (VT-d 4.1, 9.6). Default false. */
  readonly supervisor?: boolean;
  readonly extendedAccess?: boolean;
  readonly writeProtect?: boolean;
}

/** struct iommu_hwpt_vtd_s1: a scalable-mode first stage. */
export function vtdStage1(stage: VtdStage1): StageOneData {
  requireObject('vtdStage1', 'stage', stage);
  const { root, addressWidth, supervisor, extendedAccess, writeProtect } = stage;
  require64('vtdStage1', 'root', root);
  requireNumber('vtdStage1', 'addressWidth', addressWidth);
  const view = new DataView(new ArrayBuffer(24));
  view.setBigUint64(0, (supervisor ? SRE : 0n) | (extendedAccess ? EAFE : 0n) | (writeProtect ? WPE : 0n), true);
  view.setBigUint64(8, root, true);
  view.setUint32(16, addressWidth, true);
  return { type: TYPE_VTD_S1, bytes: new Uint8Array(view.buffer) };
}

function words(type: number, values: readonly bigint[]): StageOneData {
  return { type, bytes: new Uint8Array(BigUint64Array.from(values).buffer) };
}

/** struct iommu_hwpt_arm_smmuv3: the first two double words of the guest's stream table entry (IHI 0070, 5.2). */
export function smmuv3Stage1(ste0: bigint, ste1: bigint): StageOneData {
  require64('smmuv3Stage1', 'ste0', ste0);
  require64('smmuv3Stage1', 'ste1', ste1);
  return words(TYPE_ARM_SMMUV3, [ste0, ste1]);
}

/** struct iommu_hwpt_amd_guest: the guest's device table entry (48882, 2.2.2.1). @throws RangeError unless it has four words. */
export function amdGuest(dte: readonly bigint[]): StageOneData {
  requireArray('amdGuest', 'dte', dte);
  if (dte.length !== 4) throw new RangeError(`amdGuest: a device table entry has 4 words, not ${dte.length}`);
  return words(TYPE_AMD_GUEST, dte);
}
