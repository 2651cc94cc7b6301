import { errno, HostError } from '../errno.ts';
import type { HostCalls, HostDevice, HostSpace } from '../host.ts';
import type { Port, PortMemory } from '../port.ts';
import * as uapi from './uapi.ts';

/** The interface that groups are opened through, as far as they need it. */
export interface GroupHost {
  readonly port: Port;
  /** For the structs of calls that are not hot. */
  readonly control: PortMemory;
  readonly calls: HostCalls;
  /** Opens a node of /dev/vfio. `expected` says what the path should be. @throws HostError */
  open(path: string, expected: string): number;
  dropGroup(group: VfioGroup): void;
}

/** The space whose container a group is in, as far as the group needs it. */
export interface GroupSpace extends HostSpace {
  /** Attaches a device that is attached to nothing. 0 or a negative errno. */
  take(device: VfioDevice): number;
  /** Takes the group out of the container. 0 or a negative errno. */
  leave(group: VfioGroup): number;
  /** The group is in the container no more. */
  lost(group: VfioGroup): void;
  /** The kernel does not let go of the group: where nothing else is in the container, its devices reach nothing from now on. */
  silence(): void;
}

/** An open IOMMU group: what a container takes in. All its devices share one space. */
export class VfioGroup {
  readonly path: string;
  readonly fd: number;
  readonly devices = new Set<VfioDevice>();
  /** The space whose container the group is in. */
  space: GroupSpace | null = null;

  constructor(path: string, fd: number) {
    this.path = path;
    this.fd = fd;
  }

  /** Devices that are attached: the group is in a container while there is one. */
  get attached(): number {
    let count = 0;
    for (const device of this.devices) if (device.space !== null) count++;
    return count;
  }
}

/**
 * A device by its group, `/dev/vfio/7`, or by group and name, `/dev/vfio/7#0000:00:05.0`. With a name it is opened while
 * it is attached, which lets it do DMA; without one whoever uses it opens it through the group.
 */
export class VfioDevice implements HostDevice {
  readonly name: string;
  readonly group: VfioGroup;
  readonly #host: GroupHost;
  readonly #deviceName: string | null;
  space: GroupSpace | null = null;
  /** The VFIO device file while the device is attached; -1: none. */
  fd = -1;

  constructor(host: GroupHost, group: VfioGroup, path: string, deviceName: string | null) {
    this.#host = host;
    this.group = group;
    this.name = deviceName ?? path;
    this.#deviceName = deviceName;
    group.devices.add(this);
  }

  get iommuGroup(): string {
    return this.group.path.slice(this.group.path.lastIndexOf('/') + 1);
  }

  /** The space, or, where a container has not let go of the group after its last device, the group. */
  get attachment(): GroupSpace | VfioGroup | null {
    return this.space ?? (this.#stuck ? this.group : null);
  }

  get #stuck(): boolean {
    return !this.closed && this.group.space !== null && this.group.attached === 0;
  }

  get closed(): boolean {
    return !this.group.devices.has(this);
  }

  detach(): number {
    if (this.space !== null) return this.space.detach(this);
    return this.#stuck ? this.group.space!.leave(this.group) : 0;
  }

  /** Opens the device file. The group must be in a container with an IOMMU. Returns 0 or a negative errno. */
  open(): number {
    if (this.#deviceName === null) return 0;
    const { port, control } = this.#host;
    const bytes = new Uint8Array(control.buffer, 0, control.bytes);
    const { written } = new TextEncoder().encodeInto(this.#deviceName, bytes.subarray(0, -1));
    bytes[written] = 0;
    this.#host.calls.control++;
    const fd = port.ioctl(this.group.fd, uapi.VFIO_GROUP_GET_DEVICE_FD, control);
    if (fd >= 0) this.fd = fd;
    return Math.min(fd, 0);
  }

  /** Closes the device file: VFIO resets the device and no longer lets it do DMA. */
  closeFile(): void {
    if (this.fd >= 0) this.#host.port.close(this.fd);
    this.fd = -1;
  }

  close(): HostError | null {
    const { group } = this;
    const space = this.space ?? group.space;
    const error = this.detach() < 0 ? space!.error : null;
    // What the container does not let go of goes with the descriptors: closing the last of the group's takes the group out.
    if (error !== null) {
      this.closeFile();
      this.space = null;
      space!.silence();
    }
    if (group.devices.delete(this) && group.devices.size === 0) this.#host.dropGroup(group);
    return error;
  }

  [Symbol.dispose](): void {
    this.close();
  }
}

/** Opens a group and sees that it can be used. @throws HostError */
export function openGroup(host: GroupHost, path: string): VfioGroup {
  const fd = host.open(path, 'the number of the IOMMU group, with every device of the group bound to vfio-pci');
  const ints = new Int32Array(host.control.buffer);
  ints[0] = uapi.VFIO_GROUP_STATUS_BYTES;
  host.calls.control++;
  const result = host.port.ioctl(fd, uapi.VFIO_GROUP_GET_STATUS, host.control);
  if (result >= 0 && (ints[1] & uapi.VFIO_GROUP_FLAGS_VIABLE) !== 0) return new VfioGroup(path, fd);
  host.port.close(fd);
  if (result < 0) throw new HostError('VFIO_GROUP_GET_STATUS', result, undefined, path);
  throw new HostError('VFIO_GROUP_GET_STATUS', errno.EBUSY, undefined, `${path} is not viable: a device of the group has another driver`);
}
