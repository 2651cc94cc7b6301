import { PAGE_BYTES } from '../../../memory/address.ts';
import { errno } from '../../errno.ts';
import * as uapi from '../../vfio/uapi.ts';
import type { SimDevice, SimGroup } from '../device.ts';
import type { SimFile } from '../files.ts';
import { Binding } from '../iommufd/binding.ts';
import { IommufdContext } from '../iommufd/context.ts';
import { compatIoas, createCompatIoas } from '../iommufd/vfio-compat.ts';
import type { SimKernel } from '../kernel.ts';
import type { Vma } from '../memory.ts';
import { dataViewOf, readArgsz } from '../structs.ts';
import { ContainerFile } from './container.ts';
import { groupStatus } from './structs.ts';

/** The longest device name that GET_DEVICE_FD reads: a page (strndup_user). */
const NAME_MAX = 4096;

/** An open /dev/vfio/GROUP (the kernel's group.c). In a container, its devices' files keep it open. */
export class GroupFile implements SimFile {
  readonly #kernel: SimKernel;
  readonly #group: SimGroup;
  #container: ContainerFile | null = null;
  /** In place of a container. */
  #iommufd: IommufdContext | null = null;
  #users = 1;

  private constructor(kernel: SimKernel, group: SimGroup) {
    this.#kernel = kernel;
    this.#group = group;
    group.isOpen = true;
  }

  static open(kernel: SimKernel, group: SimGroup): GroupFile | number {
    return group.isOpen || group.cdevs > 0 ? -errno.EBUSY : new GroupFile(kernel, group);
  }

  ioctlName(request: number): string | undefined {
    return names.get(request);
  }

  ioctl(request: number, address: number): number {
    switch (request) {
      case uapi.VFIO_GROUP_GET_STATUS:
        return this.#status(address);
      case uapi.VFIO_GROUP_SET_CONTAINER:
        return this.#setContainer(address);
      case uapi.VFIO_GROUP_UNSET_CONTAINER:
        return this.#unsetContainer();
      case uapi.VFIO_GROUP_GET_DEVICE_FD:
        return this.#deviceFd(address);
      default:
        return -errno.ENOTTY;
    }
  }

  #status(address: number): number {
    const command = readArgsz(groupStatus, groupStatus.bytes, this.#kernel.process, address);
    if (typeof command === 'number') return command;
    const isViable = this.#isSet || this.#group.owner === null;
    const set = this.#isSet ? uapi.VFIO_GROUP_FLAGS_CONTAINER_SET : 0;
    return command.respond({ flags: set | (isViable ? uapi.VFIO_GROUP_FLAGS_VIABLE : 0) });
  }

  get #isSet(): boolean {
    return this.#container !== null || this.#iommufd !== null;
  }

  #setContainer(address: number): number {
    const argument = this.#kernel.process.view(address, 4);
    if (argument === null) return -errno.EFAULT;
    const file = this.#kernel.file(dataViewOf(argument).getInt32(0, true));
    if (file === undefined) return -errno.EBADF;
    if (this.#isSet) return -errno.EINVAL;
    if (file instanceof IommufdContext) {
      createCompatIoas(file);
      file.hold();
      this.#iommufd = file;
      return 0;
    }
    if (!(file instanceof ContainerFile)) return -errno.EBADFD;
    const failed = file.addGroup(this.#group);
    if (failed === 0) this.#container = file;
    return failed;
  }

  #unsetContainer(): number {
    if (!this.#isSet) return -errno.EINVAL;
    if (this.#container !== null && this.#users > 1) return -errno.EBUSY;
    this.#leave();
    return 0;
  }

  /** Devices that are bound to an iommufd stay so. */
  #leave(): void {
    this.#container?.removeGroup(this.#group);
    this.#container = null;
    this.#iommufd?.close();
    this.#iommufd = null;
  }

  #deviceFd(address: number): number {
    const name = this.#string(address);
    if (name === null) return -errno.EFAULT;
    const device = this.#group.devices.find((candidate) => candidate.name === name);
    if (device === undefined) return -errno.ENODEV;
    if (!this.#isSet) return -errno.EINVAL;
    const failed = device.open(() => this.#use(device));
    return failed < 0 ? failed : this.#kernel.install(new DeviceFile(this.#kernel, device));
  }

  /** vfio_df_device_first_open: what ends with the device's last file, or a negative errno. */
  #use(device: SimDevice): (() => void) | number {
    if (this.#iommufd === null) {
      if (this.#container?.driver == null) return -errno.EINVAL;
      this.#users++;
      return () => this.close();
    }
    const binding = Binding.create(this.#iommufd, device);
    if (typeof binding === 'number') return binding;
    const ioas = compatIoas(this.#iommufd);
    const attached = typeof ioas === 'number' ? ioas : binding.attach(ioas.id, null);
    if (attached >= 0) return () => binding.release();
    binding.release();
    return attached;
  }

  /** A string of the process, or null: EFAULT. */
  #string(address: number): string | null {
    for (let bytes = 1; bytes <= NAME_MAX; bytes++) {
      const view = this.#kernel.process.view(address, bytes);
      if (view === null) return null;
      if (view[bytes - 1] === 0) return new TextDecoder().decode(view.slice(0, -1));
    }
    return null;
  }

  save(): unknown {
    return { group: this.#group.number, users: this.#users, inContainer: this.#isSet };
  }

  /** Also of a device that its container has: the last of them leaves it. */
  close(): void {
    if (--this.#users > 0) return;
    this.#leave();
    this.#group.isOpen = false;
  }
}

/** A device that was opened through its group. */
class DeviceFile implements SimFile {
  readonly device: SimDevice;
  readonly #kernel: SimKernel;
  /** The descriptor, and what is mapped of it. */
  #holders = 1;

  constructor(kernel: SimKernel, device: SimDevice) {
    this.#kernel = kernel;
    this.device = device;
  }

  /** The device's first region. A mapping holds the file, as any mapping does. */
  mmap(bytes: number, offset: number): Vma | number {
    if (offset !== 0 || bytes !== PAGE_BYTES) return -errno.EINVAL;
    const frames = this.#kernel.physical.allocate(bytes);
    this.#holders++;
    const vma = this.#kernel.process.map(frames, 0, bytes, { registers: true, onFork: () => this.#holders++, onUnmap: () => this.close() });
    this.#kernel.physical.drop(frames);
    return vma;
  }

  close(): void {
    if (--this.#holders === 0) this.device.close();
  }

  ioctlName(): undefined {
    return undefined;
  }

  ioctl(): number {
    return -errno.ENOTTY;
  }

  objects(): Record<string, number> {
    return { openDevices: 1 };
  }

  save(): unknown {
    return { device: this.device.name };
  }
}

const names = new Map<number, string>([
  [uapi.VFIO_GROUP_GET_STATUS, 'VFIO_GROUP_GET_STATUS'],
  [uapi.VFIO_GROUP_SET_CONTAINER, 'VFIO_GROUP_SET_CONTAINER'],
  [uapi.VFIO_GROUP_UNSET_CONTAINER, 'VFIO_GROUP_UNSET_CONTAINER'],
  [uapi.VFIO_GROUP_GET_DEVICE_FD, 'VFIO_GROUP_GET_DEVICE_FD'],
]);
