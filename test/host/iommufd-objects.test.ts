import { errno } from '../../src/host/errno.ts';
import { IommufdHost } from '../../src/host/iommufd/index.ts';
import { type SimKernel, simKernel } from '../../src/host/sim/index.ts';
import type { Frames, PhysicalMemory } from '../../src/host/sim/memory.ts';
import type { Event, HardwareQueues, Invalidation, NestedDomain, NestingModel, VirtualIommu } from '../../src/host/sim/nesting/model.ts';
import { userStruct, wholeItem } from '../../src/host/sim/nesting/user-struct.ts';
import { Struct } from '../../src/host/sim/structs.ts';
import type { ParentStage } from '../../src/host/sim/translation.ts';
import { DMA_UNMAPPED } from '../../src/host/sim/translation.ts';
import { WRITE } from '../../src/memory/access.ts';
import { iommufdObjects, SELFTEST } from './iommufd-objects.ts';

/** The mock IOMMU of the kernel's selftests as a nesting model: caches with four entries that only invalidations change. */

const ENTRIES = 4;
const FLAG_ALL = 1;

/** Clears one entry or all: 0, -EOPNOTSUPP for an unknown flag, -EINVAL for an entry that there is not. */
function clear(cache: number[], flags: number, index: number): number {
  if ((flags & ~FLAG_ALL) !== 0) return -errno.EOPNOTSUPP;
  if (index >= ENTRIES) return -errno.EINVAL;
  if ((flags & FLAG_ALL) !== 0) cache.fill(0);
  else cache[index] = 0;
  return 0;
}

const stageStruct = new Struct({ iotlb: 'u32', pagetable_type: 'u32' });
const stageInvalidate = new Struct({ flags: 'u32', iotlb_id: 'u32' });
const viommuInvalidate = new Struct({ flags: 'u32', vdev_id: 'u32', cache_id: 'u32' });

class MockStage implements NestedDomain {
  readonly parent: ParentStage;
  readonly iotlb: number[];
  readonly invalidation: Invalidation = {
    type: SELFTEST.hwptInvalidate,
    run: (entry) => {
      const fields = userStruct(stageInvalidate, 'iotlb_id', entry);
      return typeof fields === 'number' ? fields : clear(this.iotlb, fields.flags, fields.iotlb_id);
    },
  };

  constructor(parent: ParentStage, value: number) {
    this.parent = parent;
    this.iotlb = new Array(ENTRIES).fill(value);
  }

  accepts(): number {
    return 0;
  }

  translate(): number {
    return DMA_UNMAPPED;
  }

  /** struct iommu_viommu_event_selftest */
  event(_fault: unknown, virtualId: bigint): Event {
    return { type: SELFTEST.veventq, data: new Uint8Array(Uint32Array.of(Number(virtualId)).buffer) };
  }

  free(): void {}
}

/** What the newest of each has in it. */
interface Newest {
  stage: MockStage | null;
  caches: Map<bigint, number[]>;
}

function makeStage(newest: Newest, parent: ParentStage, type: number, data: Uint8Array): MockStage | number {
  if (type !== SELFTEST.hwptData) return -errno.EOPNOTSUPP;
  const stage = userStruct(stageStruct, 'iotlb', data);
  if (typeof stage === 'number') return stage;
  newest.stage = new MockStage(parent, stage.iotlb);
  return newest.stage;
}

class MockQueues implements HardwareQueues {
  readonly type = SELFTEST.hwQueue;
  readonly page: { readonly frames: Frames };
  readonly #made: boolean[] = [];

  constructor(physical: PhysicalMemory) {
    this.page = { frames: physical.allocate(4096) };
  }

  add(index: number): number {
    if (index >= 2) return -errno.EINVAL;
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

function makeViommu(newest: Newest, parent: ParentStage, physical: PhysicalMemory, answer: Uint8Array | null): VirtualIommu {
  const caches = new Map<bigint, number[]>();
  newest.caches = caches;
  const queues = new MockQueues(physical);
  // struct iommu_viommu_selftest: in_data, out_data, out_mmap_offset, out_mmap_length.
  if (answer !== null) {
    const view = new DataView(answer.buffer, answer.byteOffset);
    view.setUint32(4, view.getUint32(0, true), true);
    view.setBigUint64(8, BigInt(queues.page.frames.first), true);
    view.setBigUint64(16, 4096n, true);
  }
  return {
    queues,
    nest: (type, data) => makeStage(newest, parent, type, data),
    invalidation: {
      type: SELFTEST.viommuInvalidate,
      run(entry, device) {
        const { flags, vdev_id: virtualId, cache_id: index } = wholeItem(viommuInvalidate, entry);
        const cache = caches.get(BigInt(virtualId)) ?? new Array<number>(ENTRIES).fill(SELFTEST.deviceCache);
        if ((flags & ~FLAG_ALL) === 0 && index < ENTRIES && !device(BigInt(virtualId))) return -errno.EINVAL;
        caches.set(BigInt(virtualId), cache);
        return clear(cache, flags, index);
      },
      blocks: { entries: 1, entryBytes: viommuInvalidate.bytes, check: () => 0 },
    },
  };
}

function mockIommu(newest: Newest): NestingModel {
  return {
    infoType: SELFTEST.hwInfo,
    info: (type) => (type === 0 || type === SELFTEST.hwInfo ? Buffer.alloc(8) : null),
    nest: (parent, _physical, type, data) => makeStage(newest, parent, type, data),
    virtualTypes: [SELFTEST.viommu],
    virtual: (parent, physical, _type, answer) => makeViommu(newest, parent, physical, answer),
  };
}

function machine(newest: Newest): SimKernel {
  return simKernel({
    iommus: [
      {
        nesting: mockIommu(newest),
        aperture: { first: BigInt(SELFTEST.base), last: 0x7fff_ffffn },
        pageSizes: 0x1000n,
        reserved: [],
        dirtyTracking: true,
        pasidLog2: 20,
      },
    ],
    devices: ['vfio0', 'vfio1'].map((name) => ({ name, pageRequests: true })),
  });
}

iommufdObjects('the simulated kernel', () => {
  const newest: Newest = { stage: null, caches: new Map() };
  const kernel = machine(newest);
  const host = new IommufdHost(kernel);
  let next = 0;
  return {
    port: kernel,
    host,
    addDevice(space) {
      const sim = kernel.devices[next++];
      const device = host.openDevice(sim.path);
      if (space.attach(device) < 0) throw space.error;
      return {
        id: device.id,
        replace: (to) => device.attach(to),
        attachPasid: (pasid, to) => device.attachPasid(pasid, to),
        detachPasid: (pasid) => device.detachPasid(pasid),
        pageFault: (address) => void sim.dmaWrite(address, Uint8Array.of(0)),
        event: () => void sim.dmaWrite(0n, Uint8Array.of(0)),
      };
    },
    iotlb: (_stage, index, value) => newest.stage?.iotlb[index] === value,
    cache: (_device, virtualId, index, value) => (newest.caches.get(BigInt(virtualId))?.[index] ?? SELFTEST.deviceCache) === value,
    write(_device, _table, page) {
      const sim = kernel.device();
      if (sim.hostPfn(page, WRITE) < 0 || sim.dmaWrite(BigInt(page) << 12n, Uint8Array.of(0)) < 0)
        throw new Error(`page ${page} is not mapped`);
    },
    close() {
      host.close();
      const { descriptors, pinnedBytes, domains, groupsOwned } = kernel.live();
      if (descriptors + pinnedBytes + domains + groupsOwned !== 0) throw new Error(`leaked: ${JSON.stringify(kernel.live())}`);
    },
  };
});
