import { PAGE_BYTES } from '../../../memory/address.ts';
import { errno } from '../../errno.ts';
import { ioctl } from '../../iommufd/uapi.ts';
import type { SimDevice } from '../device.ts';
import type { SimFile } from '../files.ts';
import type { SimKernel } from '../kernel.ts';
import type { Vma } from '../memory.ts';
import { readArgsz, readSized } from '../structs.ts';
import { Binding } from './binding.ts';
import { IommufdContext } from './context.ts';
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
  #binding: Binding | null = null;
  #mappings = 0;
  #closed = false;

  constructor(kernel: SimKernel, device: SimDevice) {
    this.#kernel = kernel;
    this.#device = device;
  }

  get device(): SimDevice | null {
    return this.#binding === null ? null : this.#device;
  }

  ioctlName(request: number): string | undefined {
    return names.get(request);
  }

  ioctl(request: number, address: number): number {
    if (request === ioctl.VFIO_DEVICE_BIND_IOMMUFD) return this.#bind(address);
    if (this.#binding === null) return -errno.EINVAL;
    if (request === ioctl.VFIO_DEVICE_ATTACH_IOMMUFD_PT) return this.#attach(this.#binding, address);
    if (request === ioctl.VFIO_DEVICE_DETACH_IOMMUFD_PT) return this.#detach(this.#binding, address);
    return -errno.ENOTTY;
  }

  #bind(address: number): number {
    const command = readSized(vfioBind, vfioBind.endOf('out_devid'), this.#kernel.process, address);
    if (typeof command === 'number') return command;
    const { flags, iommufd, token_uuid_ptr } = command.in;
    if ((flags & ~WITH_TOKEN) !== 0 || iommufd < 0) return -errno.EINVAL;
    const { group } = this.#device;
    if (group.isOpen) return -errno.EBUSY;
    if (this.#binding !== null) return -errno.EINVAL;
    // The token is read, and then a device that is no virtual function has none to compare it with.
    if (flags === WITH_TOKEN) return this.#kernel.process.view(token_uuid_ptr, TOKEN_BYTES) === null ? -errno.EFAULT : -errno.EINVAL;
    const file = this.#kernel.file(iommufd);
    if (file === undefined) return -errno.EBADF;
    if (!(file instanceof IommufdContext)) return -errno.EBADFD;
    if (this.#device.isOpen) return -errno.EINVAL;
    const binding = Binding.create(file, this.#device);
    if (typeof binding === 'number') return binding;
    this.#binding = binding;
    this.#device.open(() => () => binding.release());
    group.cdevs++;
    const failed = command.respond({ out_devid: binding.object.id });
    if (failed < 0) this.#unbind();
    return failed;
  }

  #attach(binding: Binding, address: number): number {
    const command = readArgsz(vfioAttach, vfioAttach.endOf('pt_id'), this.#kernel.process, address);
    if (typeof command === 'number') return command;
    const { argsz, flags, pt_id, pasid } = command.in;
    if ((flags & ~WITH_PASID) !== 0) return -errno.EINVAL;
    if (flags === WITH_PASID && argsz < vfioAttach.bytes) return -errno.EINVAL;
    if (flags === WITH_PASID && !command.isWhole) return -errno.EFAULT;
    const id = binding.attach(pt_id, flags === WITH_PASID ? pasid : null);
    if (id < 0) return id;
    const failed = command.respond({ pt_id: id });
    // Whatever it was attached with, what is undone is an attachment without a PASID.
    if (failed < 0) binding.detach(null);
    return failed;
  }

  #detach(binding: Binding, address: number): number {
    const command = readArgsz(vfioDetach, vfioDetach.endOf('flags'), this.#kernel.process, address);
    if (typeof command === 'number') return command;
    const { argsz, flags, pasid } = command.in;
    if ((flags & ~WITH_PASID) !== 0) return -errno.EINVAL;
    if (flags === WITH_PASID && argsz < vfioDetach.bytes) return -errno.EINVAL;
    if (flags === WITH_PASID && !command.isWhole) return -errno.EFAULT;
    binding.detach(flags === WITH_PASID ? pasid : null);
    return 0;
  }

  objects(): Record<string, number> {
    return { boundDevices: this.#binding === null ? 0 : 1 };
  }

  save(): unknown {
    return { device: this.#device.name, bound: this.#binding?.object.id ?? null };
  }

  /** The device's first region. A mapping holds the file, as any mapping does. */
  mmap(bytes: number, offset: number): Vma | number {
    if (this.#binding === null || offset !== 0 || bytes !== PAGE_BYTES) return -errno.EINVAL;
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
    if (this.#binding === null) return;
    this.#binding = null;
    this.#device.group.cdevs--;
    this.#device.close();
  }
}
