import { requireObject, requireString } from '../../memory/arguments.ts';
import { errno, HostError } from '../errno.ts';
import type { Host, HostCalls, HostCapabilities, HostDevice, HostSpace, IovaRange, SpaceRequirements } from '../host.ts';
import type { Port, PortMemory } from '../port.ts';
import { reachThrough } from '../reach.ts';
import { openGroup, VfioDevice, type VfioGroup } from './group.ts';
import * as uapi from './uapi.ts';

/** Larger than any struct of the interface, capability chains and device names included. */
const CONTROL_BYTES = 4096;

/** What iommufd takes, and what this interface does. */
const CDEV = /^\/dev\/vfio\/devices\//;
const WANTED = 'a device node of iommufd; here the path is /dev/vfio/GROUP#DEVICE, for example /dev/vfio/12#0000:01:00.0';

/** One of VFIO's IOMMU drivers. */
export interface VfioDriver {
  readonly kind: string;
  /** The IOMMU type that VFIO_CHECK_EXTENSION and VFIO_SET_IOMMU take, and its name. */
  readonly type: number;
  readonly typeName: string;
  /** The kernel module that has it. */
  readonly module: string;
}

/** VFIO's container and group interface, as far as both of its IOMMU drivers have it in common. */
export abstract class VfioHost implements Host {
  readonly kind: string;
  readonly driver: VfioDriver;
  readonly capabilities: HostCapabilities = { replace: false, copy: false };
  readonly calls: HostCalls = { map: 0, unmap: 0, copy: 0, attach: 0, control: 0 };
  readonly port: Port;
  /** For the structs of calls that are not hot. */
  readonly control: PortMemory;
  readonly #groups = new Map<string, VfioGroup>();
  readonly #spaces = new Set<HostSpace>();
  #open = true;

  /** @throws HostError when the kernel lacks the interface or the user may not open it. */
  constructor(port: Port, driver: VfioDriver) {
    requireObject(driver.kind, 'port', port, 'Port', ['open', 'close', 'ioctl', 'allocate', 'mmap']);
    this.port = port;
    this.driver = driver;
    this.kind = driver.kind;
    this.control = port.allocate(CONTROL_BYTES);
    try {
      port.close(this.openContainer());
    } catch (error) {
      this.control.release();
      throw error;
    }
  }

  /** Opens a node of /dev/vfio. `expected` says what the path should be. @throws HostError */
  open(path: string, expected: string): number {
    const fd = this.port.open(path);
    if (fd >= 0) return fd;
    const hints = new Map<number, string>([
      [-errno.ENOENT, `there is no such node: ${expected}`],
      [-errno.EACCES, 'no permission to open it for reading and writing'],
      [-errno.EBUSY, 'somebody has it open'],
    ]);
    throw new HostError(`open ${path}`, fd, undefined, hints.get(fd));
  }

  /** A new container. @throws HostError unless the kernel has the driver. */
  openContainer(): number {
    if (!this.#open) throw new TypeError(`${this.kind}: the host is closed`);
    const { type, typeName, module } = this.driver;
    const fd = this.open('/dev/vfio/vfio', 'the kernel has no VFIO containers, or the module vfio is not loaded');
    this.calls.control += 2;
    const version = this.port.ioctl(fd, uapi.VFIO_GET_API_VERSION, 0);
    const has = version < 0 ? 0 : this.port.ioctl(fd, uapi.VFIO_CHECK_EXTENSION, type);
    if (version === uapi.VFIO_API_VERSION && has > 0) return fd;
    this.port.close(fd);
    if (version < 0) throw new HostError('VFIO_GET_API_VERSION', version);
    if (has < 0) throw new HostError('VFIO_CHECK_EXTENSION', has, undefined, typeName);
    throw new HostError('VFIO_CHECK_EXTENSION', errno.ENODEV, undefined, `the kernel has no ${typeName}: is ${module} loaded?`);
  }

  /** Whether the kernel has something more, an argument of VFIO_CHECK_EXTENSION: 1, 0, or a negative errno. */
  extension(container: number, extension: number): number {
    this.calls.control++;
    return this.port.ioctl(container, uapi.VFIO_CHECK_EXTENSION, extension);
  }

  openDevice(path: string): VfioDevice {
    requireString(this.kind, 'device path', path);
    if (!this.#open) throw new TypeError(`${this.kind}: the host is closed`);
    if (CDEV.test(path)) {
      this.port.close(this.open(path, WANTED));
      throw new HostError(`open ${path}`, errno.EINVAL, undefined, WANTED);
    }
    const [groupPath, deviceName] = path.split('#', 2);
    const group = this.#groups.get(groupPath) ?? openGroup(this, groupPath);
    this.#groups.set(groupPath, group);
    return new VfioDevice(this, group, path, deviceName ?? null);
  }

  refusesDirtyTracking(): string | null {
    return `${this.kind} has no spaces made for it`;
  }

  /** The interface does not say what IOMMU a device has. */
  lacksWriteOnly(): string | null {
    return null;
  }

  reach(device: HostDevice, wanted: readonly IovaRange[]): readonly IovaRange[] {
    return reachThrough(this.createSpace(), device, wanted);
  }

  abstract createSpace(requirements?: SpaceRequirements): HostSpace;

  /** Remembers a space, to close it with the host. */
  protected keep<S extends HostSpace>(space: S): S {
    this.#spaces.add(space);
    return space;
  }

  dropSpace(space: HostSpace): void {
    this.#spaces.delete(space);
  }

  dropGroup(group: VfioGroup): void {
    this.#groups.delete(group.path);
    this.port.close(group.fd);
    group.space?.lost(group);
  }

  close(): void {
    if (!this.#open) return;
    this.#open = false;
    for (const group of [...this.#groups.values()]) for (const device of [...group.devices]) device.close();
    for (const space of [...this.#spaces]) space.close();
    this.control.release();
  }

  [Symbol.dispose](): void {
    this.close();
  }
}
