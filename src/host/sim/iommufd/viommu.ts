import { PAGE_BYTES } from '../../../memory/address.ts';
import { errno } from '../../errno.ts';
import type { SimIommu } from '../iommu.ts';
import type { Event, VirtualIommu } from '../nesting/model.ts';
import type { Span } from '../spans.ts';
import { UserBuffer } from '../structs.ts';
import { Access } from './access.ts';
import { handler, type IoctlHandler, type IommufdContext, type KernelObject, type Mappable, type Shown } from './context.ts';
import { DeviceObject } from './device.ts';
import { IOVA_MAX } from './iova-ranges.ts';
import { NEST_PARENT, PagingHwpt, type VirtualSlice } from './page-tables.ts';
import { iommuHwQueueAlloc, iommuVdeviceAlloc, iommuViommuAlloc } from './structs.ts';

/** Virtual IOMMUs, their devices and their hardware queues (the kernel's viommu.c), checks in the kernel's order. */

export class Viommu implements VirtualSlice, Mappable {
  readonly kind = 'viommu';
  id = 0;
  users = 1;
  readonly hardware: VirtualIommu;
  readonly parent: PagingHwpt;
  /** By virtual ID. */
  readonly devices = new Map<bigint, DeviceObject>();
  /** By type. */
  readonly eventQueues = new Map<number, { report(event: Event): void }>();
  readonly #context: IommufdContext;
  readonly #run: () => void;

  constructor(context: IommufdContext, parent: PagingHwpt, hardware: VirtualIommu) {
    this.#context = context;
    this.parent = parent;
    this.hardware = hardware;
    parent.users++;
    this.#run = () => hardware.queues?.run((virtualId) => this.devices.get(virtualId));
    context.kernel.hardware.add(this.#run);
  }

  get iommu(): SimIommu {
    return this.parent.domain.iommu;
  }

  report(event: Event): void {
    this.eventQueues.get(event.type)?.report(event);
  }

  get shown(): Shown | null {
    const page = this.hardware.queues?.page ?? null;
    return page === null ? null : { ...page, bytes: page.frames.buffer.byteLength };
  }

  destroy(): void {
    this.#context.kernel.hardware.delete(this.#run);
    const { shown } = this;
    if (shown !== null) this.#context.kernel.physical.drop(shown.frames);
    this.parent.users--;
  }

  save(): unknown {
    return { parent: this.parent.id, devices: [...this.devices.keys()].map((id) => id.toString(16)) };
  }
}

const alloc = handler('IOMMU_VIOMMU_ALLOC', iommuViommuAlloc, 'out_viommu_id', (context, command) => {
  const { flags, type, dev_id, hwpt_id, data_len, data_uptr } = command.in;
  if (flags !== 0 || type === 0) return -errno.EOPNOTSUPP;
  const device = context.get(dev_id, DeviceObject);
  if (device === undefined) return -errno.ENOENT;
  const { nesting } = device.device.iommu.config;
  if (nesting?.virtual === undefined || nesting.virtualTypes?.includes(type) === false) return -errno.EOPNOTSUPP;
  const parent = context.get(hwpt_id, PagingHwpt);
  if (parent === undefined) return -errno.ENOENT;
  if ((parent.flags & NEST_PARENT) === 0) return -errno.EINVAL;
  const answer = data_len === 0 ? null : new UserBuffer(context.kernel.process, data_uptr, data_len);
  const hardware = nesting.virtual(parent.domain, context.kernel.physical, type, answer, (bytes) => context.placeMmap(bytes));
  if (typeof hardware === 'number') return hardware;
  const made = context.add(new Viommu(context, parent, hardware));
  return context.settle(made, command.respond({ out_viommu_id: made.id }));
});

/** A device's place on a vIOMMU. */
class Vdevice implements KernelObject {
  readonly kind = 'vdevice';
  id = 0;
  users = 1;
  readonly #viommu: Viommu;
  readonly #device: DeviceObject;
  readonly #virtualId: bigint;

  constructor(viommu: Viommu, device: DeviceObject, virtualId: bigint) {
    this.#viommu = viommu;
    this.#device = device;
    this.#virtualId = virtualId;
    viommu.users++;
    viommu.devices.set(virtualId, device);
    device.virtual = this;
    device.virtualId = virtualId;
    device.slice = viommu;
  }

  destroy(): void {
    this.#viommu.users--;
    this.#viommu.devices.delete(this.#virtualId);
    this.#device.virtual = null;
    this.#device.virtualId = undefined;
    this.#device.slice = null;
  }

  save(): unknown {
    return { viommu: this.#viommu.id, device: this.#device.id, virtualId: this.#virtualId.toString(16) };
  }
}

const allocDevice = handler('IOMMU_VDEVICE_ALLOC', iommuVdeviceAlloc, 'virt_id', (context, command) => {
  const { viommu_id, dev_id, virt_id } = command.in;
  const viommu = context.get(viommu_id, Viommu);
  if (viommu === undefined) return -errno.ENOENT;
  const device = context.get(dev_id, DeviceObject);
  if (device === undefined) return -errno.ENOENT;
  if (viommu.iommu !== device.device.iommu) return -errno.EINVAL;
  if (device.virtual !== null || viommu.devices.has(virt_id)) return -errno.EEXIST;
  const made = context.add(new Vdevice(viommu, device, virt_id));
  return context.settle(made, command.respond({ out_vdevice_id: made.id }));
});

/** A queue of commands in the guest's memory that the hardware reads by physical address. */
class HwQueue implements KernelObject {
  readonly kind = 'hw-queue';
  id = 0;
  users = 1;
  readonly #viommu: Viommu;
  readonly #index: number;
  /** Keeps its memory where it is. */
  readonly #access: Access;
  readonly #pages: Span<bigint>;
  /** The queue before it, which cannot go first. */
  #before: HwQueue | undefined;

  constructor(viommu: Viommu, index: number, access: Access, pages: Span<bigint>) {
    this.#viommu = viommu;
    this.#index = index;
    this.#access = access;
    this.#pages = pages;
  }

  isOf(viommu: Viommu, index: number): boolean {
    return this.#viommu === viommu && this.#index === index;
  }

  /** It stands behind another, if there is one. */
  start(before: HwQueue | undefined): void {
    this.#viommu.users++;
    this.#before = before;
    if (before !== undefined) before.users++;
  }

  destroy(): void {
    this.#viommu.hardware.queues?.remove(this.#index);
    this.release();
    this.#viommu.users--;
    if (this.#before !== undefined) this.#before.users--;
  }

  release(): void {
    this.#access.unpin(this.#pages.first, this.#pages.last - this.#pages.first + 1n);
    this.#access.close();
  }

  save(): unknown {
    return { viommu: this.#viommu.id, index: this.#index };
  }
}

const PAGE = BigInt(PAGE_BYTES);
/** Of what the kernel notes of each page of a queue, and of all that it allocates at once (kvmalloc). */
const POINTER_BYTES = 8n;
const ALLOCATION_MAX = 2n ** 31n - 1n;

const allocQueue = handler('IOMMU_HW_QUEUE_ALLOC', iommuHwQueueAlloc, 'length', (context, command) => {
  const { flags, viommu_id, type, index, nesting_parent_iova: base, length } = command.in;
  if (flags !== 0 || type === 0) return -errno.EOPNOTSUPP;
  if (length === 0n) return -errno.EINVAL;
  if (base + length - 1n > IOVA_MAX) return -errno.EOVERFLOW;
  const viommu = context.get(viommu_id, Viommu);
  if (viommu === undefined) return -errno.ENOENT;
  const { queues } = viommu.hardware;
  if (queues === undefined || queues.type !== type) return -errno.EOPNOTSUPP;
  const first = base - (base % PAGE);
  const bytes = ((base + length - first + PAGE - 1n) / PAGE) * PAGE;
  if (bytes > IOVA_MAX) return -errno.ERANGE;
  if ((bytes / PAGE) * POINTER_BYTES > ALLOCATION_MAX) return -errno.ENOMEM;
  // The queue has its ID before its access has one.
  const access = new Access(context, { pins: true });
  const queue = context.reserve(new HwQueue(viommu, index, access, { first, last: first + bytes - 1n }));
  context.add(access);
  const refused = access.attach(viommu.parent.ioas);
  const pages = refused < 0 ? refused : access.pin(first, bytes, false);
  const contiguous = typeof pages === 'number' || pages.every((page, at) => page === pages[0] + at * PAGE_BYTES);
  let failed = typeof pages === 'number' ? pages : contiguous ? 0 : -errno.EFAULT;
  if (failed === 0) failed = queues.add(index, (pages as number[])[0] + Number(base - first), base, Number(length));
  if (failed < 0) {
    if (typeof pages === 'number') access.close();
    else queue.release();
    context.discard(queue.id);
    return failed;
  }
  context.publish(queue);
  queue.start(context.list(HwQueue).find((other) => other.isOf(viommu, index - 1)));
  return context.settle(queue, command.respond({ out_hw_queue_id: queue.id }));
});

export const viommuHandlers: readonly IoctlHandler[] = [alloc, allocDevice, allocQueue];
