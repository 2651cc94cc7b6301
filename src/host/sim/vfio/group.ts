import { PAGE_BYTES } from '../../../memory/address.ts';
import { errno } from '../../errno.ts';
import * as uapi from '../../vfio/uapi.ts';
import type { SimDevice, SimGroup } from '../device.ts';
import type { SimFile } from '../files.ts';
import type { SimKernel } from '../kernel.ts';
import type { Vma } from '../memory.ts';
import { dataViewOf, readArgsz } from '../structs.ts';
import { ContainerFile } from './container.ts';
import { groupStatus } from './structs.ts';

/** The longest device name that GET_DEVICE_FD reads: a page (strndup_user). */
const NAME_MAX = 4096;

/** Groups that are open: a second open is refused. */
const opened = new WeakSet<SimGroup>();

/** An open /dev/vfio/GROUP (the kernel's group.c). Its devices' files keep it open. */
export class GroupFile implements SimFile {
  readonly #kernel: SimKernel;
  readonly #group: SimGroup;
  #container: ContainerFile | null = null;
  #users = 1;

  private constructor(kernel: SimKernel, group: SimGroup) {
    this.#kernel = kernel;
    this.#group = group;
    opened.add(group);
  }

  static open(kernel: SimKernel, group: SimGroup): GroupFile | number {
    return opened.has(group) || group.owner !== null ? -errno.EBUSY : new GroupFile(kernel, group);
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
    const set = this.#container === null ? 0 : uapi.VFIO_GROUP_FLAGS_CONTAINER_SET;
    return command.respond({ flags: uapi.VFIO_GROUP_FLAGS_VIABLE | set });
  }

  #setContainer(address: number): number {
    const argument = this.#kernel.process.view(address, 4);
    if (argument === null) return -errno.EFAULT;
    const file = this.#kernel.file(dataViewOf(argument).getInt32(0, true));
    if (file === undefined) return -errno.EBADF;
    if (this.#container !== null) return -errno.EINVAL;
    if (!(file instanceof ContainerFile)) return -errno.EBADFD;
    const failed = file.addGroup(this.#group);
    if (failed === 0) this.#container = file;
    return failed;
  }

  #unsetContainer(): number {
    if (this.#container === null) return -errno.EINVAL;
    if (this.#users > 1) return -errno.EBUSY;
    this.#container.removeGroup(this.#group);
    this.#container = null;
    return 0;
  }

  #deviceFd(address: number): number {
    const name = this.#string(address);
    if (name === null) return -errno.EFAULT;
    const device = this.#group.devices.find((candidate) => candidate.name === name);
    if (device === undefined) return -errno.ENODEV;
    if (this.#container?.driver == null) return -errno.EINVAL;
    this.#users++;
    return this.#kernel.install(new DeviceFile(this.#kernel, device, () => this.close()));
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
    return { group: this.#group.number, users: this.#users, inContainer: this.#container !== null };
  }

  /** Also of a device's file: the last of them leaves the container. */
  close(): void {
    if (--this.#users > 0) return;
    this.#container?.removeGroup(this.#group);
    this.#container = null;
    opened.delete(this.#group);
  }
}

/** A device that was opened through its group. */
class DeviceFile implements SimFile {
  readonly device: SimDevice;
  readonly #kernel: SimKernel;
  readonly #released: () => void;
  /** The descriptor, and what is mapped of it. */
  #holders = 1;

  constructor(kernel: SimKernel, device: SimDevice, released: () => void) {
    this.#kernel = kernel;
    this.device = device;
    this.#released = released;
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
    if (--this.#holders === 0) this.#released();
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
