import { requireBytes, requireNumber, requireObject, requireString } from '../../memory/arguments.ts';
import { errno, HostError } from '../errno.ts';
import type {
  Host,
  HostCalls,
  HostCapabilities,
  HostDevice,
  HostNesting,
  HostPageRequests,
  HostPasids,
  IovaRange,
  SpaceRequirements,
} from '../host.ts';
import type { Port } from '../port.ts';
import { reachThrough } from '../reach.ts';
import type { SharedMemory } from '../shared-memory.ts';
import { type Handle, IommufdContext } from './context.ts';
import { IommufdDevice, own } from './device.ts';
import { FaultQueue } from './fault-queue.ts';
import { type HwInfo, readHwInfo } from './hw-info.ts';
import { Invalidations, SmmuInvalidations, VtdInvalidations } from './invalidate.ts';
import { IommufdNesting } from './nesting.ts';
import { IommufdPageRequests } from './page-requests.ts';
import { KernelPageTable, type NestedOptions, type PageTableOptions, StageOne } from './page-table.ts';
import { IommufdPasids } from './pasids.ts';
import { IommufdSpace } from './space.ts';
import type { StageOneData } from './stage-one.ts';
import { lacksWriteOnly, refusesDirtyTracking, TableSpace } from './table-space.ts';
import { createVintf, type Vintf } from './tegra241.ts';
import { Viommu } from './viommu.ts';

export type { DirtyVisitor } from '../host.ts';
export type { Handle } from './context.ts';
export type { Attachable, IommufdDevice, Place } from './device.ts';
export type { DirtyOptions } from './dirty.ts';
export type { FaultQueue, PageFault } from './fault-queue.ts';
export type { HwData, HwInfo } from './hw-info.ts';
export type { Invalidations, SmmuInvalidations, VtdInvalidations } from './invalidate.ts';
export type { KernelPageTable, NestedOptions, PageTableOptions, StageOne } from './page-table.ts';
export type { IommufdSpace } from './space.ts';
export { amdGuest, type StageOneData, smmuv3Stage1, type VtdStage1, vtdStage1 } from './stage-one.ts';
export { CommandQueue, type Vintf } from './tegra241.ts';
export type { BoundDevice, EventQueue, HardwareQueue, Vdevice, Viommu, VirtualEvent } from './viommu.ts';

export interface IommufdOptions {
  /** Default /dev/iommu. */
  readonly path?: string;
}

const OPEN_HINTS: Readonly<Record<number, string>> = {
  [errno.ENOENT]: 'the kernel has no iommufd, or the module iommufd is not loaded',
  [errno.EACCES]: 'no permission to open it for reading and writing',
};

/** struct iommu_vfio_ioas: size, ioas_id, op (16 bits). */
const VFIO_IOAS_BYTES = 12;
const VFIO_IOAS_OP = { get: 0, set: 1, clear: 2 } as const;

/**
 * The driver of Linux's iommufd (/dev/iommu, VFIO device nodes), on whatever port it is given. A plain user needs `openDevice`
 * and `createSpace`; the rest is for who puts a guest's own tables on the hardware.
 *
 * @example
 * const kernel = simKernel();
 * const ram = kernel.allocate(1 << 16);
 * const host = new IommufdHost(kernel);
 * const space = host.createSpace();
 * const device = host.openDevice(kernel.device().path);
 * space.attach(device); // 0
 * space.map(0x40, Number(ram.address >> 12n), 1, READ_WRITE); // 0
 * kernel.device().dmaWrite(0x40010n, Uint8Array.of(7)); // 0
 * new Uint8Array(ram.buffer)[0x10]; // 7
 * host.close();
 */
export class IommufdHost implements Host {
  readonly kind = 'iommufd';
  readonly capabilities: HostCapabilities = { replace: true, copy: true };
  readonly calls: HostCalls = { map: 0, unmap: 0, copy: 0, attach: 0, control: 0 };
  /** Of /dev/iommu, for whoever has calls of his own for it. */
  readonly fd: number;
  readonly #context: IommufdContext;
  readonly #devices = new Set<IommufdDevice>();
  readonly nesting: HostNesting;
  readonly pageRequests: HostPageRequests;
  readonly pasids: HostPasids;
  #closed = false;

  /** @throws HostError when there is no such node, or the process may not open it. */
  constructor(port: Port, options: IommufdOptions = {}) {
    requireObject('IommufdHost', 'port', port, 'Port', ['open', 'close', 'ioctl', 'allocate', 'mmap']);
    requireObject('IommufdHost', 'options', options);
    const path = options.path ?? '/dev/iommu';
    requireString('IommufdHost', 'path', path);
    this.fd = port.open(path);
    if (this.fd < 0) throw new HostError(`open ${path}`, this.fd, undefined, OPEN_HINTS[-this.fd]);
    this.#context = new IommufdContext(port, this.fd, this.calls);
    const nesting = new IommufdNesting(this.#context);
    this.nesting = nesting;
    this.pageRequests = new IommufdPageRequests(this.#context, this.#devices);
    this.pasids = new IommufdPasids((device) => nesting.infoOf(device));
  }

  /** `path`: the node under /dev/vfio/devices of a device whose driver is vfio-pci. */
  openDevice(path: string): IommufdDevice {
    requireString('IommufdHost', 'device path', path);
    this.#checkOpen();
    this.calls.control++;
    return new IommufdDevice(this.#context, path, this.#devices);
  }

  /** From now on spaces map parts of it by its file (IOMMU_IOAS_MAP_FILE), as far as the kernel can; of memory without a file nothing is kept. */
  share(memory: SharedMemory): () => void {
    requireObject('IommufdHost', 'memory', memory);
    const own = { ...memory };
    if (own.file !== null) this.#context.shared.add(own);
    return () => this.#context.shared.delete(own);
  }

  reach(device: HostDevice, wanted: readonly IovaRange[]): readonly IovaRange[] {
    return reachThrough(this.createSpace(), device, wanted);
  }

  refusesDirtyTracking(device: HostDevice): string | null {
    return refusesDirtyTracking(this.#context, own(device));
  }

  lacksWriteOnly(device: HostDevice): string | null {
    return lacksWriteOnly(this.#context, own(device));
  }

  createSpace(requirements: SpaceRequirements = {}): IommufdSpace {
    requireObject('IommufdHost', 'requirements', requirements);
    this.#checkOpen();
    const { pageRequests, dirtyTracking = false, writeOnly = false } = requirements;
    return pageRequests === undefined && !dirtyTracking && !writeOnly
      ? new IommufdSpace(this.#context, requirements)
      : new TableSpace(this.#context, requirements);
  }

  /** What the IOMMU in front of a device is. `type`: of the data wanted (enum iommu_hw_info_type), where there are several. */
  hwInfo(device: Handle, type = 0): HwInfo {
    requireHandles({ device });
    requireNumber('IommufdHost', 'type', type);
    return readHwInfo(this.#context, device, type);
  }

  /** A page table filled from a space, with what automatic ones have not: nesting, dirty tracking, page faults, PASIDs. */
  createPageTable(device: Handle, space: IommufdSpace, options: PageTableOptions = {}): KernelPageTable {
    requireHandles({ device, space });
    requireObject('IommufdHost', 'options', options);
    return new KernelPageTable(this.#context, device, space, options);
  }

  /** A page table of the user's own format on a nesting parent, or on a vIOMMU. */
  createStageOne(device: Handle, parent: KernelPageTable | Viommu, data: StageOneData, options: NestedOptions = {}): StageOne {
    requireHandles({ device, parent });
    requireObject('IommufdHost', 'data', data);
    requireBytes('IommufdHost', 'data.bytes', data.bytes);
    requireObject('IommufdHost', 'options', options);
    return new StageOne(this.#context, device, parent, data, options);
  }

  /** Invalidations of a VT-d first stage, batched. */
  createVtdInvalidations(target: StageOne, capacity?: number): VtdInvalidations {
    requireHandles({ target });
    return new VtdInvalidations(this.#context, target, capacity);
  }

  /** Invalidation commands of an SMMUv3's guest, batched. */
  createSmmuInvalidations(target: Viommu, capacity?: number): SmmuInvalidations {
    requireHandles({ target });
    return new SmmuInvalidations(this.#context, target, capacity);
  }

  /** Invalidations of any type (enum iommu_hwpt_invalidate_data_type), entries given as words. */
  createInvalidations(target: Handle, type: number, entryBytes: number, capacity?: number): Invalidations {
    requireHandles({ target });
    requireNumber('IommufdHost', 'type', type);
    requireNumber('IommufdHost', 'entryBytes', entryBytes);
    return new Invalidations(this.#context, target, type, entryBytes, capacity);
  }

  createFaultQueue(): FaultQueue {
    return new FaultQueue(this.#context);
  }

  /** `type`: enum iommu_viommu_type. `data`: of the type's own; the kernel's answer comes back in it. */
  createViommu(device: Handle, parent: KernelPageTable, type: number, data?: Uint8Array): Viommu {
    requireHandles({ device, parent });
    requireNumber('IommufdHost', 'type', type);
    if (data !== undefined) requireBytes('IommufdHost', 'data', data);
    return new Viommu(this.#context, device, parent, type, data);
  }

  /** A vIOMMU whose guest has command queues of its own (Tegra241). */
  createVintf(device: Handle, parent: KernelPageTable): Vintf {
    requireHandles({ device, parent });
    return createVintf(this.#context, device, parent);
  }

  /** Moves the account of all pinned memory to this process. @throws HostError EINVAL while a mapping is not of a file. */
  changeProcess(): void {
    this.#context.control('IOMMU_IOAS_CHANGE_PROCESS', 8, () => {});
  }

  /** ID of the IOAS that VFIO's container calls on this descriptor use. @throws HostError ENODEV when there is none. */
  get vfioIoas(): number {
    return this.#vfioIoas('get', 0);
  }

  setVfioIoas(space: IommufdSpace | null): void {
    if (space !== null) requireHandles({ space });
    if (space === null) this.#vfioIoas('clear', 0);
    else this.#vfioIoas('set', space.id);
  }

  #vfioIoas(operation: keyof typeof VFIO_IOAS_OP, id: number): number {
    return this.#context.control('IOMMU_VFIO_IOAS', VFIO_IOAS_BYTES, (command) => {
      command.words[1] = id;
      command.words[2] = VFIO_IOAS_OP[operation];
    })[1];
  }

  /** The kernel frees every object with the descriptors. */
  #checkOpen(): void {
    if (this.#closed) throw new TypeError('IommufdHost: it is closed');
  }

  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    for (const device of this.#devices) device.close();
    for (const object of this.#context.owned) object.dispose();
    this.#context.port.close(this.fd);
  }

  [Symbol.dispose](): void {
    this.close();
  }
}

/** @throws TypeError unless each is an object of the kernel's, with its ID. */
function requireHandles(values: Readonly<Record<string, unknown>>): void {
  for (const [name, value] of Object.entries(values)) {
    requireObject('IommufdHost', name, value);
    requireNumber('IommufdHost', `${name}.id`, (value as Handle).id);
  }
}
