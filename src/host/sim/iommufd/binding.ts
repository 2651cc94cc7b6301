import { errno } from '../../errno.ts';
import type { SimDevice } from '../device.ts';
import type { IommufdContext } from './context.ts';
import { DeviceObject, NO_PASID } from './device.ts';

/** A device that VFIO has bound to an iommufd, and what it is attached to there (the kernel's drivers/vfio/iommufd.c). */
export class Binding {
  readonly object: DeviceObject;
  readonly #context: IommufdContext;
  /** It was attached without a PASID, and with these: PASID 0 is attached as none, and yet told apart. */
  #attached = false;
  readonly #pasids = new Set<number>();

  private constructor(context: IommufdContext, device: SimDevice) {
    this.#context = context;
    device.group.owner = context;
    context.hold();
    this.object = context.add(new DeviceObject(context, device));
    this.object.users++;
  }

  /** iommufd_device_bind: or a negative errno. */
  static create(context: IommufdContext, device: SimDevice): Binding | number {
    const { iommu, group } = device;
    if (!iommu.config.isolatedMsi || (group.owner !== null && group.owner !== context)) return -errno.EPERM;
    return new Binding(context, device);
  }

  /** To an IOAS or a page table, by its ID, or from what it was attached to so before. `pasid` null: without. The page table's ID, or a negative errno. */
  attach(id: number, pasid: number | null): number {
    const known = pasid === null ? this.#attached : this.#pasids.has(pasid);
    const at = placeOf(pasid);
    const result = known ? this.object.replace(id, at) : this.object.attach(id, at);
    if (result < 0) return result;
    if (pasid === null) this.#attached = true;
    else this.#pasids.add(pasid);
    return result;
  }

  /** Nothing, where it was not attached that way. */
  detach(pasid: number | null): void {
    const known = pasid === null ? this.#attached : this.#pasids.delete(pasid);
    if (pasid === null) this.#attached = false;
    if (known) this.object.detach(placeOf(pasid));
  }

  release(): void {
    this.object.detachAll();
    this.object.unbind();
    this.#context.close();
  }
}

/** What an attachment is to iommufd: PASID 0 is none (IOMMU_NO_PASID). */
function placeOf(pasid: number | null): number {
  return pasid === null || pasid === 0 ? NO_PASID : pasid;
}
