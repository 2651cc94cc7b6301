import { HostError } from '../errno.ts';
import type { Host, HostCalls, HostCapabilities, SpaceRequirements } from '../host.ts';
import type { Port } from '../port.ts';
import { IommufdDevice } from './device.ts';
import { IommufdSpace, type SpaceContext } from './space.ts';

export type { IommufdDevice } from './device.ts';
export type { IommufdSpace } from './space.ts';

export interface IommufdOptions {
  /** Default /dev/iommu. */
  readonly path?: string;
}

/** The driver of Linux's iommufd (/dev/iommu, VFIO device nodes), on whatever port it is given. */
export class IommufdHost implements Host {
  readonly kind = 'iommufd';
  readonly capabilities: HostCapabilities = { replace: true, copy: true };
  readonly calls: HostCalls = { map: 0, unmap: 0, copy: 0, attach: 0, control: 0 };
  readonly #context: SpaceContext;
  readonly #spaces = new Set<IommufdSpace>();
  readonly #devices = new Set<IommufdDevice>();
  #closed = false;

  /** @throws HostError when there is no such node, or the process may not open it. */
  constructor(port: Port, options: IommufdOptions = {}) {
    const path = options.path ?? '/dev/iommu';
    const fd = port.open(path);
    if (fd < 0) throw new HostError(`open ${path}`, fd);
    this.#context = { port, fd, calls: this.calls };
  }

  /** `path`: the node under /dev/vfio/devices of a device whose driver is vfio-pci. */
  openDevice(path: string): IommufdDevice {
    const { port, fd } = this.#context;
    this.calls.control++;
    const device = new IommufdDevice(port, fd, path, (closed) => this.#devices.delete(closed));
    this.#devices.add(device);
    return device;
  }

  createSpace(requirements: SpaceRequirements = {}): IommufdSpace {
    const space = new IommufdSpace(this.#context, requirements, (closed) => this.#spaces.delete(closed));
    this.#spaces.add(space);
    return space;
  }

  /** The kernel frees every object with the descriptors. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    for (const device of this.#devices) device.close();
    for (const space of this.#spaces) space.dispose();
    this.#context.port.close(this.#context.fd);
  }
}
