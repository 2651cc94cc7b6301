import { hostErrorOf } from '../errno.ts';
import type { HostDevice, HostNesting, NestingHardware, NestingParent, UserStage } from '../host.ts';
import type { Handle, IommufdContext } from './context.ts';
import { own } from './device.ts';
import { type HwInfo, readHwInfo } from './hw-info.ts';
import { IommufdParent } from './nesting-parent.ts';

/** VT-d 4.1, 11.4.3: ECAP.NEST, ECAP.FSTS; 11.4.2: CAP.FS1GP. */
const ECAP_NEST = 1n << 26n;
const ECAP_FSTS = 1n << 47n;
const CAP_FS1GP = 1n << 56n;
const CAP_FS5LP = 1n << 60n;
const ECAP_SRS = 1n << 31n;
const ECAP_EAFS = 1n << 34n;
/** enum iommu_hw_info_vtd_flags: IOMMU_HW_INFO_VTD_ERRATA_772415_SPR17 */
const ERRATUM_772415 = 1;
/** The hardware page tables of second stages have 48 bits and more. */
const VTD_OUTPUT_BITS = 48;

/** IHI 0070, 6.3.1 to 6.3.6. */
const IDR0_S1P = 1 << 1;
const IDR0_S2P = 1 << 0;
const IDR0_ASID16 = 1 << 12;
const IDR5_GRAN4K = 1 << 4;
const OUTPUT_BITS = [32, 36, 40, 42, 44, 48, 52] as const;

/** enum iommu_hw_info_type */
const TEGRA241 = 3;

/** iommufd's nesting: HWPT_ALLOC with NEST_PARENT, HWPT_NESTED data, vIOMMUs, HWPT_INVALIDATE. */
export class IommufdNesting implements HostNesting {
  readonly #context: IommufdContext;
  readonly #known = new WeakMap<HostDevice, NestingHardware | string>();
  readonly #infos = new WeakMap<HostDevice, HwInfo>();

  constructor(context: IommufdContext) {
    this.#context = context;
  }

  hardwareOf(asked: HostDevice): NestingHardware | string {
    const { device } = own(asked);
    let hardware = this.#known.get(device);
    if (hardware === undefined) {
      hardware = this.#ask(device);
      this.#known.set(device, hardware);
    }
    return hardware;
  }

  /** What the kernel says of the device and its IOMMU, asked once. @throws HostError */
  infoOf(asked: HostDevice): HwInfo {
    const { device } = own(asked);
    const info = this.#infos.get(device) ?? readHwInfo(this.#context, device, 0);
    this.#infos.set(device, info);
    return info;
  }

  #ask(device: HostDevice): NestingHardware | string {
    try {
      const hardware = hardwareFrom(this.infoOf(device));
      if (typeof hardware === 'string' || hardware.kind !== 'smmuv3') return hardware;
      return { ...hardware, commandQueue: this.#hasQueue(own(device)) };
    } catch (error) {
      return hostErrorOf(error).message;
    }
  }

  /** VT-d 4.1, 9.6, by 11.4.2 and 11.4.3; the kernel would find out as it attaches. */
  refuses(device: HostDevice, stage: UserStage): string | null {
    const hardware = this.hardwareOf(device);
    if (typeof hardware === 'string') return hardware;
    const { data } = this.infoOf(device);
    if (data.kind !== stage.kind) return `the first stage is of ${stage.kind}, the hardware ${data.kind}`;
    if (stage.kind !== 'vtd' || data.kind !== 'vtd') return null;
    if (stage.addressWidth === 57 && (data.cap & CAP_FS5LP) === 0n) return 'VT-d without first stages of 5 levels (CAP.FS5LP)';
    if (stage.supervisor && (data.ecap & ECAP_SRS) === 0n) return 'VT-d without supervisor requests (ECAP.SRS)';
    if (stage.extendedAccess && (data.ecap & ECAP_EAFS) === 0n) return 'VT-d without extended accessed flags (ECAP.EAFS)';
    return null;
  }

  requestsPages(device: HostDevice): boolean {
    return typeof this.hardwareOf(device) !== 'string' && this.infoOf(device).ats;
  }

  createParent(device: HostDevice, hardware: NestingHardware, queue = false): NestingParent {
    const { dirtyTracking } = this.infoOf(device);
    return new IommufdParent(this.#context, own(device), hardware, { queue, dirtyTracking });
  }

  #hasQueue(device: Handle): boolean {
    try {
      return readHwInfo(this.#context, device, TEGRA241).data.kind === 'tegra241';
    } catch (error) {
      hostErrorOf(error);
      return false;
    }
  }
}

function hardwareFrom({ data, pasidLog2 }: HwInfo): NestingHardware | string {
  if (data.kind === 'amd') return 'AMD-Vi: the kernel takes no invalidations of a user, so the first stage would be stale';
  if (data.kind === 'vtd') {
    const needed = ECAP_NEST | ECAP_FSTS;
    if ((data.ecap & needed) !== needed) return 'VT-d without nested translation (ECAP.NEST, ECAP.FSTS)';
    const gigabytePages = (data.cap & CAP_FS1GP) !== 0n;
    const readOnlyPages = (data.flags & ERRATUM_772415) === 0;
    const bits = { inputBits: 48, outputBits: VTD_OUTPUT_BITS, asidBits: 0 } as const;
    return { kind: 'vtd', ...bits, gigabytePages, liveSplit: true, readOnlyPages, pasidStages: pasidLog2 > 0, commandQueue: false };
  }
  if (data.kind === 'smmuv3') {
    const [idr0, , , idr3, , idr5] = data.idr;
    if ((idr0 & IDR0_S1P) === 0 || (idr0 & IDR0_S2P) === 0) return 'SMMUv3 without both stages (IDR0.S1P, IDR0.S2P)';
    if ((idr5 & IDR5_GRAN4K) === 0) return 'SMMUv3 without the 4 KiB granule (IDR5.GRAN4K)';
    const outputBits = Math.min(OUTPUT_BITS[idr5 & 7] ?? 48, 48);
    const liveSplit = ((idr3 >>> 11) & 3) === 2;
    const asidBits = (idr0 & IDR0_ASID16) === 0 ? 8 : 16;
    return {
      kind: 'smmuv3',
      inputBits: 48,
      outputBits,
      asidBits,
      gigabytePages: true,
      liveSplit,
      readOnlyPages: true,
      pasidStages: false,
      commandQueue: false,
    };
  }
  return 'the kernel names no IOMMU that takes first stages of a user (IOMMU_GET_HW_INFO)';
}
