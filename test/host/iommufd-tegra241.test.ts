import { beforeEach, describe, expect, test } from 'vitest';
import { type SimKernel, simKernel, smmuv3 } from '../../src/host/sim/index.ts';
import { AbiMachine, NOWHERE } from './abi-machine.ts';

/** How CMDQV's virtual interfaces and queues are made (Linux, drivers/iommu/arm/arm-smmu-v3/tegra241-cmdqv.c), and when not. */
describe('CMDQV', () => {
  const PAGE = 4096n;
  const TYPE = 2;
  const QUEUE = 1;

  let kernel: SimKernel;
  let m: AbiMachine;
  let device: number;
  let parent: number;

  beforeEach(() => {
    kernel = simKernel({ iommus: [{ nesting: smmuv3({ tegra241: { log2vcmdqs: 1, queueLg2: 4 } }), reserved: [] }] });
    m = new AbiMachine({
      port: kernel,
      device: '/dev/vfio/devices/vfio0',
      file: '',
      iommu: { describes: true, virtual: true },
      close() {},
    });
    device = m.bind().id;
    const space = m.ioas();
    expect(m.map(space, 0n, 16n * PAGE)).toBe(0);
    expect(m.call('IOMMU_HWPT_ALLOC', 1, device, space, 0, 0, 0, 0, 0n, 0, 0)).toBe(0);
    parent = m.out32(16);
  });

  const viommu = (bytes: number, at = m.memory.address) => m.call('IOMMU_VIOMMU_ALLOC', 0, TYPE, device, parent, 0, bytes, 0, at);

  test('a virtual interface is none to who does not want to know where its page is, and leaves nothing behind', () => {
    const before = kernel.live();
    const { address, release } = kernel.allocate(4096, { writable: false });
    expect([viommu(0), viommu(8), viommu(24), viommu(16, NOWHERE), viommu(16, address)]).toEqual([
      'EINVAL',
      'EINVAL',
      'EINVAL',
      'EFAULT',
      'EFAULT',
    ]);
    release();
    expect(kernel.live()).toEqual(before);
    expect(viommu(16)).toBe(0);
  });

  test('queues are made in ascending order, as many as there are, of as many entries as they may have', () => {
    expect(viommu(16)).toBe(0);
    const id = m.out32(20);
    const queue = (index: number, base: bigint, bytes: bigint) => m.call('IOMMU_HW_QUEUE_ALLOC', 0, id, QUEUE, index, 0, base, bytes);
    expect([queue(2, 0n, 256n), queue(1, 0n, 256n)]).toEqual(['EINVAL', 'EIO']);
    expect([queue(0, 0n, 16n), queue(0, 0n, 512n), queue(0, 0n, 48n), queue(0, 64n, 256n)]).toEqual([
      'EINVAL',
      'EINVAL',
      'EINVAL',
      'EINVAL',
    ]);
    expect([queue(0, 0n, 256n), queue(0, 0n, 256n), queue(1, PAGE, 32n), queue(2, PAGE, 32n)]).toEqual([0, 'EEXIST', 0, 'EINVAL']);
  });
});
