import { PAGE_BYTES } from '../../../memory/address.ts';
import { errno } from '../../errno.ts';
import { ioctl } from '../../iommufd/uapi.ts';
import type { SimDevice } from '../device.ts';
import type { SimFile } from '../files.ts';
import type { SimKernel } from '../kernel.ts';
import type { Vma } from '../memory.ts';
import { readArgsz, readSized } from '../structs.ts';
import { IommufdContext } from './context.ts';
import { DeviceObject, NO_PASID } from './device.ts';
import { vfioAttach, vfioBind, vfioDetach } from './structs.ts';

const names = new Map<number, string>(Object.entries(ioctl).map(([name, number]) => [number, name]));

/** VFIO_DEVICE_BIND_FLAG_TOKEN */
const WITH_TOKEN = 1;
const TOKEN_BYTES = 16;
/** VFIO_DEVICE_ATTACH_PASID and VFIO_DEVICE_DETACH_PASID */
const WITH_PASID = 1;

/** A VFIO device opened by its own node (the kernel's device_cdev.c): nothing can be done with it before it is bound. */
export class CdevFile implements SimFile {
  readonly #kernel: SimKernel;
  readonly #device: SimDevice;
  #context: IommufdContext | null = null;
  #object: DeviceObject | null = null;
  /** It was attached without a PASID, and with these: PASID 0 is attached as none, and yet told apart. */
  #attached = false;
  readonly #pasids = new Set<number>();
  #mappings = 0;
  #closed = false;

  constructor(kernel: SimKernel, device: SimDevice) {
    this.#kernel = kernel;
    this.#device = device;
  }

  get device(): SimDevice | null {
    return this.#object === null ? null : this.#device;
  }

  ioctlName(request: number): string | undefined {
    return names.get(request);
  }

  ioctl(request: number, address: number): number {
    if (request === ioctl.VFIO_DEVICE_BIND_IOMMUFD) return this.#bind(address);
    if (this.#object === null) return -errno.EINVAL;
    if (request === ioctl.VFIO_DEVICE_ATTACH_IOMMUFD_PT) return this.#attach(this.#object, address);
    if (request === ioctl.VFIO_DEVICE_DETACH_IOMMUFD_PT) return this.#detach(this.#object, address);
    return -errno.ENOTTY;
  }

  #bind(address: number): number {
    const command = readSized(vfioBind, vfioBind.endOf('out_devid'), this.#kernel.process, address);
    if (typeof command === 'number') return command;
    const { flags, iommufd, token_uuid_ptr } = command.in;
    if ((flags & ~WITH_TOKEN) !== 0 || iommufd < 0 || this.#object !== null) return -errno.EINVAL;
    // The token is read, and then a device that is no virtual function has none to compare it with.
    if (flags === WITH_TOKEN) return this.#kernel.process.view(token_uuid_ptr, TOKEN_BYTES) === null ? -errno.EFAULT : -errno.EINVAL;
    const file = this.#kernel.file(iommufd);
    if (file === undefined) return -errno.EBADF;
    if (!(file instanceof IommufdContext)) return -errno.EBADFD;
    const { iommu, group } = this.#device;
    if (file.devices.has(this.#device)) return -errno.EINVAL;
    if (group.owner !== null && group.owner !== file) return group.owner instanceof IommufdContext ? -errno.EPERM : -errno.EBUSY;
    if (!iommu.config.isolatedMsi) return -errno.EPERM;
    group.owner = file;
    this.#context = file;
    file.devices.add(this.#device);
    file.hold();
    this.#object = file.add(new DeviceObject(file, this.#device));
    this.#object.users++;
    const failed = command.respond({ out_devid: this.#object.id });
    if (failed < 0) this.#unbind();
    return failed;
  }

  #attach(object: DeviceObject, address: number): number {
    const command = readArgsz(vfioAttach, vfioAttach.endOf('pt_id'), this.#kernel.process, address);
    if (typeof command === 'number') return command;
    const { argsz, flags, pt_id, pasid } = command.in;
    if ((flags & ~WITH_PASID) !== 0) return -errno.EINVAL;
    if (flags === WITH_PASID && argsz < vfioAttach.bytes) return -errno.EINVAL;
    const withPasid = flags === WITH_PASID;
    const known = withPasid ? this.#pasids.has(pasid) : this.#attached;
    const at = placeOf(withPasid, pasid);
    const id = known ? object.replace(pt_id, at) : object.attach(pt_id, at);
    if (id < 0) return id;
    if (withPasid) this.#pasids.add(pasid);
    else this.#attached = true;
    const failed = command.respond({ pt_id: id });
    if (failed < 0) this.#leave(object, withPasid, pasid);
    return failed;
  }

  #detach(object: DeviceObject, address: number): number {
    const command = readArgsz(vfioDetach, vfioDetach.endOf('flags'), this.#kernel.process, address);
    if (typeof command === 'number') return command;
    const { argsz, flags, pasid } = command.in;
    if ((flags & ~WITH_PASID) !== 0) return -errno.EINVAL;
    if (flags === WITH_PASID && argsz < vfioDetach.bytes) return -errno.EINVAL;
    this.#leave(object, flags === WITH_PASID, pasid);
    return 0;
  }

  /** Nothing, where it was not attached that way. */
  #leave(object: DeviceObject, withPasid: boolean, pasid: number): void {
    const known = withPasid ? this.#pasids.delete(pasid) : this.#attached;
    if (!withPasid) this.#attached = false;
    if (known) object.detach(placeOf(withPasid, pasid));
  }

  objects(): Record<string, number> {
    return { boundDevices: this.#object === null ? 0 : 1 };
  }

  save(): unknown {
    return { device: this.#device.name, bound: this.#object?.id ?? null };
  }

  /** The device's first region. A mapping holds the file, as any mapping does. */
  mmap(bytes: number, offset: number): Vma | number {
    if (this.#object === null || offset !== 0 || bytes !== PAGE_BYTES) return -errno.EINVAL;
    const frames = this.#kernel.physical.allocate(bytes);
    this.#mappings++;
    const onUnmap = () => {
      this.#mappings--;
      if (this.#closed) this.close();
    };
    const vma = this.#kernel.process.map(frames, 0, bytes, { registers: true, onFork: () => this.#mappings++, onUnmap });
    this.#kernel.physical.drop(frames);
    return vma;
  }

  close(): void {
    this.#closed = true;
    if (this.#mappings === 0) this.#unbind();
  }

  #unbind(): void {
    const [object, context] = [this.#object, this.#context];
    if (object === null || context === null) return;
    this.#object = null;
    this.#attached = false;
    this.#pasids.clear();
    context.devices.delete(this.#device);
    object.detachAll();
    object.unbind();
    context.close();
  }
}

/** What an attachment is to iommufd: PASID 0 is none (IOMMU_NO_PASID). */
function placeOf(withPasid: boolean, pasid: number): number {
  return withPasid && pasid !== 0 ? pasid : NO_PASID;
}
