import { errno } from '../../errno.ts';
import * as uapi from '../../vfio/uapi.ts';
import type { SimGroup } from '../device.ts';
import type { SimFile } from '../files.ts';

/** An IOMMU driver of a container (struct vfio_iommu_driver_ops), made by SET_IOMMU and gone with the last group. */
export interface ContainerDriver {
  ioctlName(request: number): string | undefined;
  ioctl(request: number, address: number): number;
  attachGroup(group: SimGroup): number;
  detachGroup(group: SimGroup): void;
  release(): void;
  objects(): Record<string, number>;
  save(): unknown;
}

/** A driver that is loaded. */
export interface DriverModule {
  /** IOMMU types that it serves. */
  readonly types: readonly number[];
  /** Other values of VFIO_CHECK_EXTENSION that it has; `inContainer`: it is asked about a container that it drives. */
  has(extension: number, inContainer: boolean): boolean;
  create(type: number): ContainerDriver;
}

/** An open /dev/vfio/vfio (the kernel's container.c). Groups keep what it has alive after its close. */
export class ContainerFile implements SimFile {
  readonly #modules: readonly DriverModule[];
  readonly #groups = new Set<SimGroup>();
  /** Of the driver, while there is one. */
  #module: DriverModule | null = null;
  driver: ContainerDriver | null = null;

  constructor(modules: readonly DriverModule[]) {
    this.#modules = modules;
  }

  ioctlName(request: number): string | undefined {
    return names.get(request) ?? this.driver?.ioctlName(request);
  }

  ioctl(request: number, argument: number): number {
    switch (request) {
      case uapi.VFIO_GET_API_VERSION:
        return uapi.VFIO_API_VERSION;
      case uapi.VFIO_CHECK_EXTENSION:
        return this.#has(argument) ? 1 : 0;
      case uapi.VFIO_SET_IOMMU:
        return this.#setIommu(argument);
      default:
        return this.driver === null ? -errno.EINVAL : this.driver.ioctl(request, argument);
    }
  }

  /** Without a driver all are asked. */
  #has(extension: number): boolean {
    const asked = this.#module === null ? this.#modules : [this.#module];
    return asked.some((module) => module.types.includes(extension) || module.has(extension, this.#module !== null));
  }

  #setIommu(type: number): number {
    if (this.#groups.size === 0 || this.driver !== null) return -errno.EINVAL;
    const module = this.#modules.find(({ types }) => types.includes(type));
    if (module === undefined) return -errno.ENODEV;
    const driver = module.create(type);
    const attached: SimGroup[] = [];
    for (const group of this.#groups) {
      const failed = driver.attachGroup(group);
      if (failed < 0) {
        for (const undo of attached.reverse()) driver.detachGroup(undo);
        driver.release();
        return failed;
      }
      attached.push(group);
    }
    this.driver = driver;
    this.#module = module;
    return 0;
  }

  /** VFIO_GROUP_SET_CONTAINER of a group that is in none. */
  addGroup(group: SimGroup): number {
    if (group.owner !== null) return -errno.EPERM;
    const failed = this.driver?.attachGroup(group) ?? 0;
    if (failed < 0) return failed;
    group.owner = this;
    this.#groups.add(group);
    return 0;
  }

  /** The last group takes the IOMMU driver, and all that it maps, with it. */
  removeGroup(group: SimGroup): void {
    this.driver?.detachGroup(group);
    group.owner = null;
    this.#groups.delete(group);
    if (this.#groups.size > 0) return;
    this.driver?.release();
    this.driver = null;
    this.#module = null;
  }

  objects(): Record<string, number> {
    return { containerGroups: this.#groups.size, ...this.driver?.objects() };
  }

  save(): unknown {
    return { groups: [...this.#groups].map(({ number }) => number), driver: this.driver?.save() ?? null };
  }

  close(): void {}
}

const names = new Map<number, string>([
  [uapi.VFIO_GET_API_VERSION, 'VFIO_GET_API_VERSION'],
  [uapi.VFIO_CHECK_EXTENSION, 'VFIO_CHECK_EXTENSION'],
  [uapi.VFIO_SET_IOMMU, 'VFIO_SET_IOMMU'],
]);
