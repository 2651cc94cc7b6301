import { errno } from '../../../src/host/errno.ts';
import type { Frames, PhysicalMemory } from '../../../src/host/sim/memory.ts';
import type { HardwareQueues, Invalidation, NestedDomain, NestingModel, VirtualIommu } from '../../../src/host/sim/nesting/model.ts';
import { userStruct, wholeItem } from '../../../src/host/sim/nesting/user-struct.ts';
import { Struct, type UserBuffer } from '../../../src/host/sim/structs.ts';
import { DMA_UNMAPPED, type DomainFormat, type ParentStage } from '../../../src/host/sim/translation.ts';
import { SELFTEST } from './types.ts';

/** The mock IOMMU of the kernel's selftests (drivers/iommu/iommufd/selftest.c) as a nesting model: caches of four entries that only invalidations change. */

/** MOCK_PAGE_SIZE, and what MOCK_IOMMUPT_HUGE has in place of it. */
const PAGE = 2048n;
const HUGE_PAGES = 512n * PAGE + 4096n;

/** Every power of two from the smallest page on, as the table's format has them. */
export const MOCK_FORMAT: DomainFormat = {
  aperture: { first: BigInt(SELFTEST.base), last: BigInt(SELFTEST.last) },
  pageSizes: (1n << 37n) - PAGE,
};
/** Three levels of 512 entries each, of the smallest page: the table does not grow. */
const HUGE_FORMAT: DomainFormat = { aperture: { first: 0n, last: (PAGE << 27n) - 1n }, pageSizes: HUGE_PAGES };

const ENTRIES = 4;
const QUEUES = 2;
const FLAG_ALL = 1;

/** 0, -EOPNOTSUPP for an unknown flag, -EINVAL for an entry that there is not. */
function checkClear(flags: number, index: number): number {
  if ((flags & ~FLAG_ALL) !== 0) return -errno.EOPNOTSUPP;
  return index < ENTRIES ? 0 : -errno.EINVAL;
}

export class MockCache {
  readonly #entries: number[];

  constructor(value: number) {
    this.#entries = new Array(ENTRIES).fill(value);
  }

  clear(flags: number, index: number): void {
    if ((flags & FLAG_ALL) !== 0) this.#entries.fill(0);
    else this.#entries[index] = 0;
  }

  holds(index: number, value: number): boolean {
    return index < ENTRIES && this.#entries[index] === value;
  }
}

/** struct iommu_test_hw_info, iommu_hwpt_selftest, iommu_hwpt_invalidate_selftest, iommu_viommu_invalidate_selftest, iommu_viommu_selftest */
const hwInfo = new Struct({ flags: 'u32', test_reg: 'u32' });
const stageStruct = new Struct({ iotlb: 'u32', pagetable_type: 'u32' });
const stageInvalidate = new Struct({ flags: 'u32', iotlb_id: 'u32' });
const viommuInvalidate = new Struct({ flags: 'u32', vdev_id: 'u32', cache_id: 'u32' });
const viommuData = new Struct({ in_data: 'u32', out_data: 'u32', out_mmap_offset: 'u64', out_mmap_length: 'u64' });

/** A first stage of the mock. */
export class MockStage implements NestedDomain {
  readonly parent: ParentStage;
  readonly onViommu: boolean;
  readonly iotlb: MockCache;
  readonly invalidation: Invalidation = {
    type: SELFTEST.hwptInvalidate,
    run: (entry) => {
      const fields = userStruct(stageInvalidate, 'iotlb_id', entry);
      if (typeof fields === 'number') return fields;
      const refused = checkClear(fields.flags, fields.iotlb_id);
      if (refused === 0) this.iotlb.clear(fields.flags, fields.iotlb_id);
      return refused;
    },
  };

  constructor(parent: ParentStage, value: number, onViommu: boolean) {
    this.parent = parent;
    this.onViommu = onViommu;
    this.iotlb = new MockCache(value);
  }

  /** On a vIOMMU it wants the device's place there. */
  accepts(virtualId: bigint | undefined): number {
    return this.onViommu && virtualId === undefined ? -errno.ENOENT : 0;
  }

  translate(): number {
    return DMA_UNMAPPED;
  }

  free(): void {}
}

function makeStage(parent: ParentStage, type: number, data: UserBuffer, onViommu: boolean): MockStage | number {
  if (type !== SELFTEST.hwptData) return -errno.EOPNOTSUPP;
  const stage = userStruct(stageStruct, 'iotlb', data);
  return typeof stage === 'number' ? stage : new MockStage(parent, stage.iotlb, onViommu);
}

class MockQueues implements HardwareQueues {
  readonly type = SELFTEST.hwQueue;
  readonly page: { readonly frames: Frames; readonly offset: number } | null;
  readonly #made: boolean[] = [];

  constructor(page: { readonly frames: Frames; readonly offset: number } | null) {
    this.page = page;
  }

  add(index: number): number {
    if (index >= QUEUES) return -errno.EINVAL;
    if (this.#made[index]) return -errno.EEXIST;
    if (index > 0 && !this.#made[index - 1]) return -errno.EIO;
    this.#made[index] = true;
    return 0;
  }

  remove(index: number): void {
    this.#made[index] = false;
  }

  run(): void {}
}

/** Two pages that the user may map, where it gives data for them. */
const PAGES_BYTES = 8192;

function makeViommu(
  caches: (device: object) => MockCache,
  parent: ParentStage,
  physical: PhysicalMemory,
  answer: UserBuffer | null,
  place: (bytes: number) => number,
): VirtualIommu | number {
  let queues = new MockQueues(null);
  if (answer !== null) {
    const data = userStruct(viommuData, 'out_data', answer);
    if (typeof data === 'number') return data;
    const frames = physical.allocate(PAGES_BYTES);
    const offset = place(PAGES_BYTES);
    new DataView(frames.buffer).setUint32(0, data.in_data, true);
    const whole = new Uint8Array(viommuData.bytes);
    viommuData.encode(whole, {
      in_data: data.in_data,
      out_data: data.in_data,
      out_mmap_offset: BigInt(offset),
      out_mmap_length: BigInt(PAGES_BYTES),
    });
    if (!answer.write(whole.subarray(0, answer.bytes))) {
      physical.drop(frames);
      return -errno.EFAULT;
    }
    queues = new MockQueues({ frames, offset });
  }
  return {
    queues,
    nest: (type, data) => makeStage(parent, type, data, true),
    invalidation: {
      type: SELFTEST.viommuInvalidate,
      blocks: {
        entries: 1,
        entryBytes: viommuInvalidate.bytes,
        takesNone: true,
        check: () => 0,
        run(entry, device) {
          const { flags, vdev_id, cache_id } = wholeItem(viommuInvalidate, entry);
          const refused = checkClear(flags, cache_id);
          if (refused < 0) return refused;
          const known = device(BigInt(vdev_id));
          if (known === undefined) return -errno.EINVAL;
          caches(known).clear(flags, cache_id);
          return 0;
        },
      },
    },
  };
}

/** `caches`: of a device. */
export function mockNesting(caches: (device: object) => MockCache): NestingModel {
  return {
    infoType: SELFTEST.hwInfo,
    info(type) {
      if (type !== 0 && type !== SELFTEST.hwInfo) return null;
      const data = new Uint8Array(hwInfo.bytes);
      hwInfo.encode(data, { test_reg: SELFTEST.hwInfoRegister });
      return data;
    },
    paging(type, data) {
      if (type !== SELFTEST.hwptData) return -errno.EOPNOTSUPP;
      const fields = userStruct(stageStruct, 'iotlb', data);
      if (typeof fields === 'number') return fields;
      if (fields.pagetable_type > 1) return -errno.EOPNOTSUPP;
      return fields.pagetable_type === 0 ? MOCK_FORMAT : HUGE_FORMAT;
    },
    nest: (parent, _physical, type, data) => makeStage(parent, type, data, false),
    virtualTypes: [SELFTEST.viommu],
    virtual: (parent, physical, _type, answer, place) => makeViommu(caches, parent, physical, answer, place),
  };
}
