import { errno, HostError, hostErrorOf } from '../errno.ts';
import type { HostDevice, HostPasids } from '../host.ts';
import { Attachable, type IommufdDevice, own, type Place } from './device.ts';
import type { HwInfo } from './hw-info.ts';

/** One PASID of a device (VFIO_DEVICE_ATTACH_PASID): what stands beside it for requests without one must allow that, so it may change its page table. */
class IommufdPasid extends Attachable {
  readonly device: IommufdDevice;
  readonly name: string;
  readonly iommuGroup = null;
  readonly wantsPasidTables = true;
  moves = 0;
  readonly #pasid: number;
  #attachment: Place | null = null;
  #closed = false;

  constructor(device: IommufdDevice, pasid: number) {
    super();
    this.device = device;
    this.name = `${device.name}, PASID ${pasid}`;
    this.#pasid = pasid;
    device.processes.set(pasid, this);
  }

  get id(): number {
    return this.device.id;
  }

  /** With the device the kernel lets go of its PASIDs. */
  get closed(): boolean {
    return this.#closed || this.device.closed;
  }

  get attachment(): Place | null {
    return this.closed ? null : this.#attachment;
  }

  attach(to: Place, as: Place = to): number {
    if (this.closed) return -errno.ENODEV;
    const admitted = this.device.wantsPasidTables ? 0 : this.device.admitPasids();
    let result = admitted || this.device.attachPasid(this.#pasid, to);
    // Another device of its group may have taken it to a table without PASIDs.
    if (result === -errno.EINVAL && admitted === 0) result = this.device.admitPasids() || this.device.attachPasid(this.#pasid, to);
    if (result < 0) return result;
    this.#attachment = as;
    this.moves++;
    return 0;
  }

  /** Nobody takes it from where it was before its new place is ready (7.3: intel_iommu_set_dev_pasid). */
  settle(): void {}

  detach(): number {
    if (this.attachment === null) return 0;
    const result = this.device.detachPasid(this.#pasid);
    if (result < 0) return result;
    this.#attachment = null;
    this.moves++;
    return 0;
  }

  close(): HostError | null {
    if (this.closed) return null;
    const result = this.detach();
    if (this.device.processes.get(this.#pasid) === this) this.device.processes.delete(this.#pasid);
    this.#closed = true;
    this.#attachment = null;
    if (result === 0) return null;
    // Better no device than one whose process reaches what is somebody else's by now.
    this.device.close();
    return new HostError('VFIO_DEVICE_DETACH_IOMMUFD_PT', -result, undefined, `${this.name}: the device was closed`);
  }
}

const IOMMU_NO_PASID = 0;

/** PASIDs of devices whose kernel and hardware have them. */
export class IommufdPasids implements HostPasids {
  readonly #infoOf: (device: HostDevice) => HwInfo;

  /** `infoOf`: IOMMU_GET_HW_INFO, which says how wide they are; throws HostError. */
  constructor(infoOf: (device: HostDevice) => HwInfo) {
    this.#infoOf = infoOf;
  }

  refuses(device: HostDevice, pasid: number): string | null {
    const { name } = own(device).device;
    try {
      const { pasidLog2 } = this.#infoOf(device);
      if (pasidLog2 === 0) return `${name}: neither the device nor its IOMMU is known to have PASIDs (IOMMU_GET_HW_INFO)`;
      // Attaching it would attach the device.
      if (pasid === IOMMU_NO_PASID) return `${name}: to the kernel PASID 0 stands for requests without one (IOMMU_NO_PASID)`;
      return pasid < 2 ** pasidLog2 ? null : `${name}: its PASIDs have ${pasidLog2} bits`;
    } catch (error) {
      return hostErrorOf(error).message;
    }
  }

  open(device: HostDevice, pasid: number): HostDevice {
    return new IommufdPasid(own(device).device, pasid);
  }
}
