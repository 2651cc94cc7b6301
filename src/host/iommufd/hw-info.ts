import type { Command } from './command.ts';
import type { Handle, IommufdContext } from './context.ts';

/** struct iommu_hw_info */
const INFO = { bytes: 40, flags: 1, device: 2, length: 3, pointer: 4, type: 6, pasid: 7, capabilities: 8 } as const;
const INPUT_TYPE = 1;
/** enum iommu_hw_info_type */
const TYPE_VTD = 1;
const TYPE_SMMUV3 = 2;
const TYPE_TEGRA241 = 3;
const TYPE_AMD = 4;
/** enum iommufd_hw_capabilities */
const CAP_DIRTY_TRACKING = 1;
const CAP_PASID_EXEC = 2;
const CAP_PASID_PRIV = 4;
const CAP_NO_ATS = 8;

/** What the kernel hands on of the hardware, as registers of its own specification. */
export type HwData =
  /** No data, or of a type that is not known here: its number and bytes. */
  | { readonly kind: 'other'; readonly type: number; readonly bytes: Uint8Array }
  /** VT-d 11.4.2 and 11.4.3. `flags` bit 0: no read-only mappings on a nesting parent (erratum 772415). */
  | { readonly kind: 'vtd'; readonly flags: number; readonly cap: bigint; readonly ecap: bigint }
  /** SMMUv3 6.3.1 to 6.3.6. `flags` bit 0: TLBI and CFGI must be issued twice (erratum T264-SMMU-3). */
  | { readonly kind: 'smmuv3'; readonly flags: number; readonly idr: readonly number[]; readonly iidr: number; readonly aidr: number }
  | { readonly kind: 'tegra241'; readonly version: number; readonly log2vcmdqs: number; readonly log2vsids: number }
  /** AMD IOMMU, MMIO offsets 0030h and 01A0h. */
  | { readonly kind: 'amd'; readonly efr: bigint; readonly efr2: bigint };

export interface HwInfo {
  readonly data: HwData;
  readonly dirtyTracking: boolean;
  /** Width of PASIDs; 0: none. */
  readonly pasidLog2: number;
  readonly pasidExecute: boolean;
  readonly pasidPrivileged: boolean;
  /** Whether ATS may be on for the device. */
  readonly ats: boolean;
}

/** More than any known type has. */
const DATA_BYTES = 256;

/** IOMMU_GET_HW_INFO. @throws HostError EOPNOTSUPP for a type that the hardware has not. */
export function readHwInfo(context: IommufdContext, device: Handle, type: number): HwInfo {
  const memory = context.port.allocate(DATA_BYTES);
  try {
    const words = context.control('IOMMU_GET_HW_INFO', INFO.bytes, (command: Command) => {
      command.words[INFO.flags] = type === 0 ? 0 : INPUT_TYPE;
      command.words[INFO.device] = device.id;
      command.words[INFO.length] = DATA_BYTES;
      command.set64(INFO.pointer, memory.address);
      command.words[INFO.type] = type;
    });
    const capabilities = words[INFO.capabilities];
    return {
      data: decode(words[INFO.type] >>> 0, new DataView(memory.buffer, 0, Math.min(words[INFO.length] >>> 0, DATA_BYTES))),
      dirtyTracking: (capabilities & CAP_DIRTY_TRACKING) !== 0,
      pasidLog2: words[INFO.pasid] & 0xff,
      pasidExecute: (capabilities & CAP_PASID_EXEC) !== 0,
      pasidPrivileged: (capabilities & CAP_PASID_PRIV) !== 0,
      ats: (capabilities & CAP_NO_ATS) === 0,
    };
  } finally {
    memory.release();
  }
}

function decode(type: number, view: DataView): HwData {
  const u32 = (offset: number) => view.getUint32(offset, true);
  const u64 = (offset: number) => view.getBigUint64(offset, true);
  switch (type) {
    case TYPE_VTD:
      return { kind: 'vtd', flags: u32(0), cap: u64(8), ecap: u64(16) };
    case TYPE_SMMUV3:
      return { kind: 'smmuv3', flags: u32(0), idr: [8, 12, 16, 20, 24, 28].map(u32), iidr: u32(32), aidr: u32(36) };
    case TYPE_TEGRA241:
      return { kind: 'tegra241', version: view.getUint8(4), log2vcmdqs: view.getUint8(5), log2vsids: view.getUint8(6) };
    case TYPE_AMD:
      return { kind: 'amd', efr: u64(0), efr2: u64(8) };
    default:
      return { kind: 'other', type, bytes: new Uint8Array(view.buffer, view.byteOffset, view.byteLength).slice() };
  }
}
