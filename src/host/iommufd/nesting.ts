import { HostError } from '../errno.ts';
import type { HostDevice, HostNesting, InstalledStage, NestingHardware, NestingParent, TablePages, UserStage } from '../host.ts';
import type { IommufdContext } from './context.ts';
import { IommufdDevice } from './device.ts';
import { type HwData, readHwInfo } from './hw-info.ts';
import { SmmuStage, VtdStage } from './installed-stage.ts';
import { KernelPageTable } from './page-table.ts';
import { IommufdSpace } from './space.ts';
import { type Vdevice, Viommu } from './viommu.ts';

/** VT-d 4.1, 11.4.3: ECAP.NEST, ECAP.FSTS; 11.4.2: CAP.FS1GP. */
const ECAP_NEST = 1n << 26n;
const ECAP_FSTS = 1n << 47n;
const CAP_FS1GP = 1n << 56n;
/** The hardware page tables of second stages have 48 bits and more. */
const VTD_OUTPUT_BITS = 48;

/** IHI 0070, 6.3.1 to 6.3.6. */
const IDR0_S1P = 1 << 1;
const IDR0_S2P = 1 << 0;
const IDR3_RIL = 1 << 10;
const IDR5_GRAN4K = 1 << 4;
const OUTPUT_BITS = [32, 36, 40, 42, 44, 48, 52] as const;

/** enum iommu_viommu_type */
const VIOMMU_SMMUV3 = 1;

/** iommufd's nesting: HWPT_ALLOC with NEST_PARENT, HWPT_NESTED data, vIOMMUs, HWPT_INVALIDATE. */
export class IommufdNesting implements HostNesting {
  readonly #context: IommufdContext;
  readonly #known = new WeakMap<HostDevice, NestingHardware | string>();

  constructor(context: IommufdContext) {
    this.#context = context;
  }

  hardwareOf(device: HostDevice): NestingHardware | string {
    let hardware = this.#known.get(device);
    if (hardware === undefined) {
      hardware = this.#ask(device);
      this.#known.set(device, hardware);
    }
    return hardware;
  }

  #ask(device: HostDevice): NestingHardware | string {
    try {
      return hardwareFrom(readHwInfo(this.#context, own(device), 0).data);
    } catch (error) {
      if (error instanceof HostError) return error.message;
      throw error;
    }
  }

  createParent(device: HostDevice, hardware: NestingHardware): NestingParent {
    return new Parent(this.#context, own(device), hardware);
  }
}

function own(device: HostDevice): IommufdDevice {
  if (device instanceof IommufdDevice) return device;
  throw new TypeError(`${device.name} was not opened through this host`);
}

function hardwareFrom(data: HwData): NestingHardware | string {
  if (data.kind === 'amd') return 'AMD-Vi: the kernel takes no invalidations of a user, so the first stage would be stale';
  if (data.kind === 'vtd') {
    const needed = ECAP_NEST | ECAP_FSTS;
    if ((data.ecap & needed) !== needed) return 'VT-d without nested translation (ECAP.NEST, ECAP.FSTS)';
    const gigabytePages = (data.cap & CAP_FS1GP) !== 0n;
    return { kind: 'vtd', inputBits: 48, outputBits: VTD_OUTPUT_BITS, gigabytePages, liveSplit: true };
  }
  if (data.kind === 'smmuv3') {
    const [idr0, , , idr3, , idr5] = data.idr;
    if ((idr0 & IDR0_S1P) === 0 || (idr0 & IDR0_S2P) === 0) return 'SMMUv3 without both stages (IDR0.S1P, IDR0.S2P)';
    if ((idr5 & IDR5_GRAN4K) === 0) return 'SMMUv3 without the 4 KiB granule (IDR5.GRAN4K)';
    const outputBits = Math.min(OUTPUT_BITS[idr5 & 7] ?? 48, 48);
    return { kind: 'smmuv3', inputBits: 48, outputBits, gigabytePages: true, liveSplit: ((idr3 >>> 11) & 3) === 2 };
  }
  return 'the kernel names no IOMMU that takes first stages of a user (IOMMU_GET_HW_INFO)';
}

class Parent implements NestingParent {
  readonly hardware: NestingHardware;
  readonly space: IommufdSpace;
  readonly #context: IommufdContext;
  readonly #table: KernelPageTable;
  readonly #viommu: Viommu | null;
  readonly #ranged: boolean;
  readonly #devices = new Map<HostDevice, Vdevice>();
  #nextStream = 0n;

  constructor(context: IommufdContext, device: IommufdDevice, hardware: NestingHardware) {
    this.#context = context;
    this.hardware = hardware;
    this.space = new IommufdSpace(context, {});
    const made: { close(): void }[] = [this.space];
    try {
      this.#table = new KernelPageTable(context, device, this.space, { nestParent: true });
      made.unshift(this.#table);
      this.#viommu = hardware.kind === 'smmuv3' ? new Viommu(context, device, this.#table, VIOMMU_SMMUV3) : null;
      if (this.#viommu !== null) made.unshift(this.#viommu);
      const { data } = readHwInfo(context, device, 0);
      this.#ranged = data.kind === 'smmuv3' && (data.idr[3] & IDR3_RIL) !== 0;
    } catch (error) {
      for (const object of made) object.close();
      throw error;
    }
  }

  allocate(pages: number): TablePages {
    return this.#context.port.allocate(pages * 4096);
  }

  install(device: HostDevice, stage: UserStage): InstalledStage {
    if (stage.kind === 'vtd') return new VtdStage(this.#context, own(device), this.#table, stage);
    if (this.#viommu === null) throw new TypeError(`no ${stage.kind} stage behind ${this.hardware.kind}`);
    const commands = { asid: stage.asid, ranged: this.#ranged, admit: (joining: HostDevice) => this.#admit(joining) };
    return new SmmuStage(this.#context, own(device), this.#viommu, stage.ste, commands);
  }

  /** Commands and events name a stream by its virtual ID, so a device wants a place on the vIOMMU before it is attached. */
  #admit(device: HostDevice): number {
    for (const [known, vdevice] of this.#devices) {
      if (known !== device && !known.closed) continue;
      if (known === device) return 0;
      vdevice.dispose(); // The kernel took it with the device.
      this.#devices.delete(known);
    }
    try {
      this.#devices.set(device, this.#viommu!.addDevice(own(device), this.#nextStream));
      this.#nextStream++;
      return 0;
    } catch (error) {
      if (error instanceof HostError) return -error.errno;
      throw error;
    }
  }

  close(): void {
    for (const [device, vdevice] of this.#devices) {
      if (device.closed) vdevice.dispose();
      else vdevice.close();
    }
    this.#devices.clear();
    this.#viommu?.close();
    this.#table.close();
    this.space.close();
  }

  [Symbol.dispose](): void {
    this.close();
  }
}
