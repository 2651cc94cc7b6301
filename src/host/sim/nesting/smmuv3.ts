import { requireObject } from '../../../memory/arguments.ts';
import { errno } from '../../errno.ts';
import type { PhysicalMemory } from '../memory.ts';
import { Struct, type UserBuffer } from '../structs.ts';
import type { ParentStage } from '../translation.ts';
import type { BlockInvalidation, HardwareQueues, NestedDomain, NestingModel, VirtualIommu } from './model.ts';
import { SmmuCaches } from './smmuv3-caches.ts';
import { CONFIG_ABORT, CONFIG_BYPASS, CONFIG_S1, SmmuStream } from './smmuv3-stream.ts';
import { answerVintf, checkVintf, type TegraConfig, TegraQueues, tegraInfo, VIOMMU_TEGRA241 } from './tegra241.ts';
import { userStruct, wholeItem } from './user-struct.ts';

/** Arm SMMUv3 (IHI 0070): nested translation, and what the kernel lets a guest command. */

const INFO_SMMUV3 = 2;
const DATA_SMMUV3 = 2;
const INVALIDATE_SMMUV3 = 1;
const VIOMMU_SMMUV3 = 1;

/** struct iommu_hw_info_arm_smmuv3 */
const hwInfoSmmu = new Struct({
  flags: 'u32',
  reserved: 'u32',
  idr0: 'u32',
  idr1: 'u32',
  idr2: 'u32',
  idr3: 'u32',
  idr4: 'u32',
  idr5: 'u32',
  iidr: 'u32',
  aidr: 'u32',
});
/** struct iommu_hwpt_arm_smmuv3 */
const hwptSmmu = new Struct({ ste0: 'u64', ste1: 'u64' });

/** struct iommu_viommu_arm_smmuv3_invalidate */
const invalidateSmmu = new Struct({ cmd0: 'u64', cmd1: 'u64' });

/** Commands that go to the hardware together (CMDQ_BATCH_ENTRIES - 1). */
const BATCH_COMMANDS = 63;

/** Fields of a stream table entry (5.2) that a guest may set: V, Config, S1Fmt, S1ContextPtr, S1CDMax; S1DSS, S1CIR, S1COR, S1CSH, S1STALLD, EATS. */
const STE0_ALLOWED = 0x1n | (7n << 1n) | (3n << 4n) | 0xf_ffff_ffff_ffc0n | (0x1fn << 59n);
const STE1_ALLOWED = 0xffn | (1n << 27n) | (3n << 28n);
/** 6.3.1 */
const IDR0_S2P = 1 << 0;
const IDR0_S1P = 1 << 1;

export interface SmmuConfig {
  /** IDR0 to IDR5. Default: AArch64 tables, two-level context tables, 16-bit ASIDs, 20-bit substream IDs, 48 bits in and out, 4K and 64K granules, ranges. */
  readonly idr?: readonly number[];
  /** NVIDIA's command queues for guests, beside it. */
  readonly tegra241?: TegraConfig;
}

const defaultIdr = [0x0000_1acb | (1 << 19), (19 << 21) | (20 << 6) | 16, 0, 1 << 10, 0, 0x55];

export function smmuv3(config: SmmuConfig = {}): NestingModel {
  requireObject('smmuv3', 'config', config);
  const idr = config.idr ?? defaultIdr;
  return {
    infoType: INFO_SMMUV3,
    translatesInterrupts: true,
    fillsFirstStages: (idr[0] & IDR0_S1P) !== 0,
    nestParent: (idr[0] & (IDR0_S1P | IDR0_S2P)) === (IDR0_S1P | IDR0_S2P),
    // arm_smmu_domain_alloc_paging_flags knows no NEST_PARENT with anything beside it.
    parentFlags: 0,
    info(type) {
      if (type !== 0 && type !== INFO_SMMUV3) return config.tegra241 === undefined ? null : tegraInfo(type, config.tegra241);
      const data = new Uint8Array(hwInfoSmmu.bytes);
      const [idr0, idr1, idr2, idr3, idr4, idr5] = idr;
      hwInfoSmmu.encode(data, { idr0, idr1, idr2, idr3, idr4, idr5, iidr: 0x43b, aidr: 2 });
      return data;
    },
    virtualTypes: config.tegra241 === undefined ? [VIOMMU_SMMUV3] : [VIOMMU_SMMUV3, VIOMMU_TEGRA241],
    virtual(parent, physical, type, answer, place) {
      const caches = new SmmuCaches(idr);
      if (type === VIOMMU_SMMUV3 || config.tegra241 === undefined) return new VirtualSmmu(parent, physical, caches);
      const refused = checkVintf(answer);
      if (refused < 0) return refused;
      const queues = new TegraQueues(physical, config.tegra241, caches, place);
      const failed = answerVintf(answer as UserBuffer, queues);
      if (failed === 0) return new VirtualSmmu(parent, physical, caches, queues);
      physical.drop(queues.page.frames);
      return failed;
    },
  };
}

class VirtualSmmu implements VirtualIommu {
  readonly #parent: ParentStage;
  readonly #physical: PhysicalMemory;
  readonly #caches: SmmuCaches;
  readonly queues?: HardwareQueues;
  /** arm_vsmmu_alloc_domain_nested takes no flags: the guest's table has the substreams. */
  readonly forPasid = false;
  readonly invalidation: BlockInvalidation = {
    type: INVALIDATE_SMMUV3,
    blocks: {
      entries: BATCH_COMMANDS,
      entryBytes: invalidateSmmu.bytes,
      check: (entry, device) => {
        const { cmd0, cmd1 } = wholeItem(invalidateSmmu, entry);
        return this.#caches.check(cmd0, cmd1, device);
      },
      run: (entry, device) => {
        const { cmd0, cmd1 } = wholeItem(invalidateSmmu, entry);
        return this.#caches.command(cmd0, cmd1, device);
      },
    },
  };

  constructor(parent: ParentStage, physical: PhysicalMemory, caches: SmmuCaches, queues?: HardwareQueues) {
    this.#parent = parent;
    this.#physical = physical;
    this.#caches = caches;
    if (queues !== undefined) this.queues = queues;
  }

  /** The kernel checks the entry (EIO), and takes an invalid one for one that aborts. */
  nest(type: number, data: UserBuffer): NestedDomain | number {
    if (type !== DATA_SMMUV3) return -errno.EINVAL;
    const ste = userStruct(hwptSmmu, 'ste1', data);
    if (typeof ste === 'number') return ste;
    if ((ste.ste0 & 1n) === 0n) return new SmmuStream(this.#parent, this.#physical, this.#caches, 0n, 0n);
    if ((ste.ste0 & ~STE0_ALLOWED) !== 0n || (ste.ste1 & ~STE1_ALLOWED) !== 0n) return -errno.EIO;
    const what = (ste.ste0 >> 1n) & 7n;
    if (what !== CONFIG_ABORT && what !== CONFIG_BYPASS && what !== CONFIG_S1) return -errno.EIO;
    if (((ste.ste1 >> 28n) & 3n) > 1n) return -errno.EIO;
    return new SmmuStream(this.#parent, this.#physical, this.#caches, ste.ste0, ste.ste1);
  }
}
