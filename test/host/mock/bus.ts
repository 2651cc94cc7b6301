import { errno } from '../../../src/host/errno.ts';
import { type SimDevice, SimGroup } from '../../../src/host/sim/device.ts';
import type { SimIommu } from '../../../src/host/sim/iommu.ts';
import type { KernelObject } from '../../../src/host/sim/iommufd/context.ts';
import { type DeviceObject, NO_PASID } from '../../../src/host/sim/iommufd/device.ts';
import { FaultQueue } from '../../../src/host/sim/iommufd/fault-queue.ts';
import { NestedHwpt } from '../../../src/host/sim/iommufd/page-tables.ts';
import { Viommu } from '../../../src/host/sim/iommufd/viommu.ts';
import type { SimKernel } from '../../../src/host/sim/kernel.ts';
import { DMA_UNMAPPED } from '../../../src/host/sim/translation.ts';
import type { MockCache } from './nesting.ts';
import { SELFTEST } from './types.ts';

/** The bus of mock devices: each made by a call, bound, attached, and gone with the object that stands for it. */

/** MOCK_FLAGS_DEVICE_* */
const NO_DIRTY = 1;
const PASID = 4;
const PASID_LG2 = 20;

/** TYPE_IDEV: what the user destroys to take a mock device away. */
export class MockDevice implements KernelObject {
  readonly kind = 'selftest';
  id = 0;
  users = 1;
  readonly sim: SimDevice;
  bound: DeviceObject | null = null;
  /** The vIOMMU of the first stage that it was attached to, and its ID there as it was then: it changes with the vIOMMU only. */
  #viommu: Viommu | null = null;
  #virtualId = 0n;

  constructor(sim: SimDevice) {
    this.sim = sim;
  }

  /** Notes where its events go. Returns what it was told. */
  noted(result: number): number {
    const { translation } = this.sim;
    if (result < 0) return result;
    const slice = translation instanceof NestedHwpt && translation.slice instanceof Viommu ? translation.slice : null;
    if (slice !== this.#viommu) {
      this.#viommu = slice;
      this.#virtualId = this.bound?.virtualId ?? 0n;
    }
    return result;
  }

  /** Reports an event: 0, or -ENOENT where nobody is to hear of it. */
  event(): number {
    if (this.#viommu === null || this.#virtualId === 0n) return -errno.ENOENT;
    const queue = this.#viommu.eventQueues.get(SELFTEST.veventq);
    if (queue === undefined) return -errno.EOPNOTSUPP;
    queue.report({ type: SELFTEST.veventq, data: new Uint8Array(Uint32Array.of(Number(this.#virtualId & 0xffff_ffffn)).buffer) });
    return 0;
  }

  /** A page request, to whoever takes those of the PASID's table or, for a PASID without one, of the user's table. */
  request(pasid: number, group: number, permission: number, address: bigint): void {
    const own = pasid === 0 ? this.sim.translation : this.sim.pasids.get(pasid);
    const hwpt = own ?? (this.sim.translation instanceof NestedHwpt ? this.sim.translation : undefined);
    const faults = (hwpt as NestedHwpt | undefined)?.faults;
    if (!(faults instanceof FaultQueue) || hwpt === undefined) return;
    const fault = { device: this.sim.name, pfn: 0, access: 0, pasid: pasid === 0 ? -1 : pasid, code: DMA_UNMAPPED, respond: () => {} };
    faults.report(hwpt as NestedHwpt, fault, { group, permission, address });
  }

  destroy(): void {
    const { bound } = this;
    if (bound === null) return;
    this.bound = null;
    bound.detach(NO_PASID);
    bound.unbind();
  }

  save(): unknown {
    return { device: this.bound?.id ?? null };
  }
}

export class MockBus {
  readonly cacheOf: (device: object) => MockCache;
  readonly #kernel: SimKernel;
  readonly #iommu: SimIommu;
  #made = 0;

  constructor(kernel: SimKernel, iommu: SimIommu, cacheOf: (device: object) => MockCache) {
    this.#kernel = kernel;
    this.#iommu = iommu;
    this.cacheOf = cacheOf;
  }

  /** A device in a group of its own, or -EINVAL for flags that there are not. */
  create(flags: number): SimDevice | number {
    if ((flags & ~(NO_DIRTY | PASID)) !== 0) return -errno.EINVAL;
    const group = new SimGroup(-1);
    return this.#kernel.createDevice({
      name: `iommufd_mock${this.#made++}`,
      iommu: this.#iommu,
      group,
      pageRequests: true,
      isPci: false,
      pasidLog2: (flags & PASID) !== 0 ? PASID_LG2 : 0,
      dirtyTracking: (flags & NO_DIRTY) === 0,
    });
  }
}
