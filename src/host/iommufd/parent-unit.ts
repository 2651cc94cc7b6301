import { errno, HostError } from '../errno.ts';
import type { HostDevice, HostSpace } from '../host.ts';
import type { Handle, IommufdContext } from './context.ts';
import type { Place } from './device.ts';
import { SmmuGuestCommands } from './guest-commands.ts';
import { GuestRing } from './guest-ring.ts';
import { readHwInfo } from './hw-info.ts';
import { SmmuInvalidations, VtdInvalidations } from './invalidate.ts';
import type { KernelPageTable } from './page-table.ts';
import { SmmuCommands } from './smmu-commands.ts';
import type { UnitPoint } from './spread-stage.ts';
import { createVintf, type Vintf } from './tegra241.ts';
import { Viommu } from './viommu.ts';

/** Entries that one invalidation call carries at most. */
const INVALIDATIONS = 4096;
/** enum iommu_viommu_type */
const VIOMMU_SMMUV3 = 1;
/** enum iommu_hw_info_arm_smmuv3_flags: TLBI and CFGI must be issued twice. */
const TWICE = 1;

/** How commands reach an SMMUv3: through the vIOMMU, or a queue that the hardware reads. */
export interface SmmuSide {
  readonly viommu: Viommu;
  readonly vintf: Vintf | null;
  readonly calls: SmmuInvalidations;
  readonly route: SmmuCommands;
  /** IDs of the devices that it has now, and what the guest wants to be forgotten. */
  readonly streams: Set<number>;
  readonly commands: SmmuGuestCommands;
  readonly idr: readonly number[];
}

/** What of a nesting parent is one IOMMU's: the page table of the guest's memory, and how the hardware is told to forget what stands on it. */
export class ParentUnit {
  readonly table: KernelPageTable;
  readonly smmu: SmmuSide | null;
  readonly ranges: VtdInvalidations | null;
  readonly #context: IommufdContext;
  #ring: GuestRing | null = null;

  /** `queue`: its vIOMMU is one that can have a queue. @throws HostError */
  constructor(context: IommufdContext, device: Handle, table: KernelPageTable, kind: 'vtd' | 'smmuv3', queue: boolean) {
    this.#context = context;
    this.table = table;
    this.smmu = kind === 'smmuv3' ? createSmmu(context, device, table, queue) : null;
    this.ranges = kind === 'vtd' ? new VtdInvalidations(context, table, INVALIDATIONS) : null;
  }

  /** From now on commands are stores into a ring at this page of the space, which devices can only read. @throws HostError */
  openQueue(space: HostSpace, page: number): void {
    if (this.smmu === null || this.smmu.vintf === null)
      throw new HostError('IOMMU_HW_QUEUE_ALLOC', errno.EOPNOTSUPP, undefined, 'no vIOMMU that can have a queue');
    this.#ring = new GuestRing(this.#context.port, space, this.smmu.vintf, page);
    this.smmu.route.use(this.#ring.queue);
  }

  /** The table is its space's to close. @throws HostError EBUSY while something stands on the vIOMMU. */
  close(): void {
    this.#ring?.close();
    this.#ring = null;
    this.smmu?.viommu.close();
    this.smmu?.calls.dispose();
    this.ranges?.dispose();
  }
}

function createSmmu(context: IommufdContext, device: Handle, table: KernelPageTable, queue: boolean): SmmuSide {
  const { data } = readHwInfo(context, device, 0);
  if (data.kind !== 'smmuv3') throw new HostError('IOMMU_GET_HW_INFO', errno.EOPNOTSUPP, undefined, 'no SMMUv3');
  const vintf = queue ? createVintf(context, device, table) : null;
  const viommu = vintf?.viommu ?? new Viommu(context, device, table, VIOMMU_SMMUV3);
  const calls = new SmmuInvalidations(context, viommu, INVALIDATIONS);
  const route = new SmmuCommands(context.port, calls, (data.flags & TWICE) !== 0);
  const streams = new Set<number>();
  return { viommu, vintf, calls, route, streams, commands: new SmmuGuestCommands(route, data.idr, streams), idr: data.idr };
}

/** The second stage itself as what devices are attached to. It is its space's to close. */
export class BarePoint implements UnitPoint {
  readonly id: number;
  readonly forPasid: boolean;
  readonly #table: KernelPageTable;

  constructor(table: KernelPageTable) {
    this.id = table.id;
    this.forPasid = table.forPasid;
    this.#table = table;
  }

  get error(): HostError | null {
    return this.#table.error;
  }

  attach(device: HostDevice, as?: Place): number {
    return this.#table.attach(device, as);
  }

  detach(device: HostDevice, as?: Place): number {
    return this.#table.detach(device, as);
  }

  close(): void {}
}
