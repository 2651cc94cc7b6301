import { errno, HostError } from '../errno.ts';
import type { Handle, IommufdContext } from './context.ts';
import { readHwInfo } from './hw-info.ts';
import { SmmuInvalidations, VtdInvalidations } from './invalidate.ts';
import type { KernelPageTable } from './page-table.ts';
import { SmmuCommands } from './smmu-commands.ts';
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
  readonly idr: readonly number[];
}

/** What of a nesting parent is one IOMMU's: the page table of the guest's memory, and how the hardware is told to forget what stands on it. */
export class ParentUnit {
  readonly table: KernelPageTable;
  readonly smmu: SmmuSide | null;
  readonly ranges: VtdInvalidations | null;

  /** `queue`: its vIOMMU is one that can have a queue. @throws HostError */
  constructor(context: IommufdContext, device: Handle, table: KernelPageTable, kind: 'vtd' | 'smmuv3', queue: boolean) {
    this.table = table;
    this.smmu = kind === 'smmuv3' ? createSmmu(context, device, table, queue) : null;
    this.ranges = kind === 'vtd' ? new VtdInvalidations(context, table, INVALIDATIONS) : null;
  }

  /** The table is its space's to close. @throws HostError EBUSY while something stands on the vIOMMU. */
  close(): void {
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
  return { viommu, vintf, calls, route, idr: data.idr };
}
