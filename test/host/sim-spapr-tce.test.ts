import { beforeEach, describe, expect, test } from 'vitest';
import { errnoName } from '../../src/host/errno.ts';
import type { PortMemory } from '../../src/host/port.ts';
import { type SimKernel, type SimMachine, simKernel } from '../../src/host/sim/index.ts';
import * as uapi from '../../src/host/vfio/uapi.ts';
import { READ_WRITE } from '../../src/memory/access.ts';
import { pfnOf } from '../../src/memory/address.ts';

/** What vfio_iommu_spapr_tce.c and powerpc's iommu_api.c answer to calls that the driver here never makes. */
describe('sPAPR TCE: the kernel’s answers', () => {
  const PAGE = 4096n;
  const NOWHERE = 0x1000n;
  const RW = 3;
  const END = 0x8000_0000n;

  let kernel: SimKernel;
  let struct: PortMemory;
  let view: DataView;
  let memory: PortMemory;

  function start(machine: SimMachine = { iommus: [{ tce: {} }] }): void {
    kernel = simKernel(machine);
    struct = kernel.allocate(4096);
    view = new DataView(struct.buffer);
    memory = kernel.allocate(16 * 4096);
  }
  beforeEach(() => start());

  const answer = (result: number) => (result < 0 ? errnoName(result) : result);

  /** A call with a struct of these fields: 32-bit ones as numbers, 64-bit ones as bigints. */
  function call(fd: number, request: number, ...fields: readonly (number | bigint)[]): string | number {
    new Uint8Array(struct.buffer).fill(0);
    let at = 0;
    for (const field of fields) {
      if (typeof field === 'bigint') view.setBigUint64(at, field, true);
      else view.setUint32(at, field, true);
      at += typeof field === 'bigint' ? 8 : 4;
    }
    return answer(kernel.ioctl(fd, request, struct));
  }

  function join(container: number, device = 'vfio0'): number | string {
    const group = kernel.open(`/dev/vfio/${kernel.device(device).group.number}`);
    return call(group, uapi.VFIO_GROUP_SET_CONTAINER, container);
  }

  /** A container with the first device, and its calls. */
  function container(version: 1 | 2, fd = kernel.open('/dev/vfio/vfio'), device = 'vfio0') {
    expect(join(fd, device)).toBe(0);
    const type = version === 1 ? uapi.VFIO_SPAPR_TCE_IOMMU : uapi.VFIO_SPAPR_TCE_v2_IOMMU;
    expect(answer(kernel.ioctl(fd, uapi.VFIO_SET_IOMMU, type))).toBe(0);
    return {
      fd,
      plain: (request: number) => answer(kernel.ioctl(fd, request, 0)),
      map: (iova: bigint, size: bigint, vaddr = memory.address, flags = RW) =>
        call(fd, uapi.VFIO_IOMMU_MAP_DMA, 32, flags, vaddr, iova, size),
      unmap: (iova: bigint, size: bigint, flags = 0) => call(fd, uapi.VFIO_IOMMU_UNMAP_DMA, 24, flags, iova, size),
      register: (vaddr: bigint, size: bigint, flags = 0) => call(fd, uapi.VFIO_IOMMU_SPAPR_REGISTER_MEMORY, 24, flags, vaddr, size),
      unregister: (vaddr: bigint, size: bigint) => call(fd, uapi.VFIO_IOMMU_SPAPR_UNREGISTER_MEMORY, 24, 0, vaddr, size),
      create: (pageLg2: number, size: bigint, flags = 0) =>
        call(fd, uapi.VFIO_IOMMU_SPAPR_TCE_CREATE, 40, flags, pageLg2, 0, size, 1, 0, 0n),
      remove: (at: bigint, flags = 0) => call(fd, uapi.VFIO_IOMMU_SPAPR_TCE_REMOVE, 16, flags, at),
    };
  }

  const reached = (iova: bigint) => kernel.device().hostPfn(Number(iova / PAGE), READ_WRITE);

  test('a container takes groups of POWER bridges, and version 1 takes one', () => {
    start({
      iommus: [{ tce: {} }, {}],
      devices: [{ name: 'vfio0' }, { name: 'vfio1', iommu: 1 }, { name: 'vfio2' }],
    });
    const other = kernel.open('/dev/vfio/vfio');
    expect(join(other, 'vfio1')).toBe(0);
    expect(answer(kernel.ioctl(other, uapi.VFIO_SET_IOMMU, uapi.VFIO_SPAPR_TCE_IOMMU))).toBe('ENODEV');
    const { fd } = container(1);
    expect(join(fd, 'vfio2')).toBe('EBUSY');
  });

  test('what one version has, the other has not', () => {
    const old = container(1);
    expect([old.register(memory.address, PAGE), old.unregister(memory.address, PAGE)]).toEqual(['ENOTTY', 'ENOTTY']);
    expect([old.create(12, PAGE), old.remove(0n), old.plain(0x3bff)]).toEqual(['ENOTTY', 'ENOTTY', 'ENOTTY']);
    start();
    const { plain, unregister } = container(2);
    expect([plain(uapi.VFIO_IOMMU_ENABLE), plain(uapi.VFIO_IOMMU_DISABLE), plain(0x3bff)]).toEqual(['ENOTTY', 'ENOTTY', 'ENOTTY']);
    expect(unregister(memory.address, PAGE), 'nobody has registered anything').toBe('EPERM');
  });

  test('version 1 maps while it is enabled, which counts all of its window', () => {
    const { plain, map, unmap } = container(1);
    expect([map(0n, PAGE), unmap(0n, PAGE)]).toEqual(['EPERM', 'EPERM']);
    expect(plain(uapi.VFIO_IOMMU_ENABLE)).toBe(0);
    expect(plain(uapi.VFIO_IOMMU_ENABLE)).toBe('EBUSY');
    expect(kernel.pinnedBytes).toBe(Number(END));
    expect(map(0n, PAGE, memory.address + 16n * PAGE), 'no memory').toBe('EFAULT');
    expect(map(0n, 2n * PAGE)).toBe(0);
    expect(reached(PAGE)).toBe(pfnOf(memory.address) + 1);
    expect(plain(uapi.VFIO_IOMMU_DISABLE)).toBe(0);
    expect(map(0n, PAGE)).toBe('EPERM');
    expect(kernel.pinnedBytes, 'the table is left').toBe(8 * 2 ** 19);
  });

  test('a bridge without a default window enables nothing', () => {
    start({ iommus: [{ tce: { bytes32: 0 } }] });
    expect(container(1).plain(uapi.VFIO_IOMMU_ENABLE)).toBe('EPERM');
  });

  test('GET_INFO is as long as the caller says', () => {
    const { fd } = container(2);
    expect(call(fd, uapi.VFIO_IOMMU_GET_INFO, 15)).toBe('EINVAL');
    expect(answer(kernel.ioctl(fd, uapi.VFIO_IOMMU_GET_INFO, Number(NOWHERE)))).toBe('EFAULT');
    expect(call(fd, uapi.VFIO_IOMMU_GET_INFO, 16)).toBe(0);
    expect([view.getUint32(4, true), view.getUint32(12, true), view.getBigUint64(16, true)]).toEqual([1, Number(END), 0n]);
    expect(call(fd, uapi.VFIO_IOMMU_GET_INFO, 32)).toBe(0);
    expect([view.getBigUint64(16, true), view.getUint32(24, true), view.getUint32(28, true)]).toEqual([0x101_1000n, 2, 5]);
  });

  test('MAP_DMA and UNMAP_DMA', () => {
    const { map, unmap, register, create } = container(2);
    expect([map(0n, PAGE), unmap(0n, PAGE)], 'nothing is registered').toEqual(['EPERM', 'EPERM']);
    expect(register(memory.address, 8n * PAGE)).toBe(0);
    expect(map(0n, PAGE, memory.address, 4)).toBe('EINVAL');
    expect(map(0n, PAGE, memory.address, 0)).toBe('EINVAL');
    expect(map(0n, 0x800n)).toBe('EINVAL');
    expect(map(0n, PAGE, memory.address + 0x800n)).toBe('EINVAL');
    expect(map(0x800n, PAGE), 'the check of the place is a truth value').toBe(1);
    expect(map(END, PAGE)).toBe('ENXIO');
    expect(map(0n, 9n * PAGE), 'not all of it is registered').toBe('EINVAL');
    expect(reached(0n)).toBeLessThan(0);
    expect(map(END - PAGE, 2n * PAGE), 'over the end of the window').toBe('EINVAL');
    expect(reached(END - PAGE)).toBeLessThan(0);
    expect(map(END - PAGE, PAGE)).toBe(0);
    expect(unmap(END - PAGE, PAGE, 1)).toBe('EINVAL');
    expect(unmap(END - PAGE, 0x800n)).toBe('EINVAL');
    expect(unmap(END, PAGE)).toBe('ENXIO');
    expect([unmap(END - PAGE, 2n * PAGE), unmap(END - 0x800n, PAGE)]).toEqual([1, 1]);
    expect(reached(END - PAGE)).toBe(pfnOf(memory.address));
    expect(unmap(END - PAGE, PAGE)).toBe(0);
    expect(create(16, 0x10_0000n)).toBe(0);
    const start64 = view.getBigUint64(32, true);
    expect(register(memory.address + 8n * PAGE, 8n * PAGE)).toBe(0);
    const aligned = (memory.address + 0xffffn) & ~0xffffn;
    expect(map(start64, 0x1_0000n, aligned), 'pages of 64 KiB are not in memory').toBe('EINVAL');
  });

  test('windows: flags there are none, and the default one is made for the first call that needs it', () => {
    const { create, remove, map, unmap, register } = container(2);
    expect([create(12, 0x1000_0000n, 1), remove(0n, 1)]).toEqual(['EINVAL', 'EINVAL']);
    expect(remove(END), 'no window begins there').toBe('EINVAL');
    expect(remove(0n), 'it is not there yet').toBe(0);
    expect(remove(0n)).toBe('EINVAL');
    expect(register(memory.address, PAGE)).toBe(0);
    expect([map(0n, PAGE), unmap(0n, PAGE)]).toEqual(['ENXIO', 'ENXIO']);
  });

  test('a table that the limit has no room for is ENOMEM to whatever call wants it', () => {
    start({ iommus: [{ tce: {} }], pinLimit: 8192 });
    const { create, map, unmap, register } = container(2);
    expect(register(memory.address, PAGE)).toBe(0);
    expect([map(0n, PAGE), unmap(0n, PAGE), create(12, 0x1000_0000n)]).toEqual(['ENOMEM', 'ENOMEM', 'ENOMEM']);
    expect(register(memory.address + PAGE, 2n * PAGE)).toBe('ENOMEM');
    expect(kernel.pinnedBytes).toBe(4096);
  });

  test('REGISTER_MEMORY and UNREGISTER_MEMORY', () => {
    const { register, unregister } = container(2);
    const { address } = memory;
    expect(register(address, PAGE, 1)).toBe('EINVAL');
    expect([register(address + 1n, PAGE), register(address, 1n), register(-PAGE & 0xffff_ffff_ffff_ffffn, PAGE)]).toEqual([
      'EINVAL',
      'EINVAL',
      'EINVAL',
    ]);
    expect(register(address, 0n), 'a list of no pages is no list').toBe('ENOMEM');
    expect(register(NOWHERE, PAGE)).toBe('EFAULT');
    expect(register(address + 14n * PAGE, 5n * PAGE), 'pages that could be pinned').toBe(2);
    expect(kernel.pinnedBytes).toBe(0);
    expect(register(address, 4n * PAGE)).toBe(0);
    expect(register(address, 4n * PAGE)).toBe('EBUSY');
    expect(register(address + PAGE, 4n * PAGE), 'over another').toBe('EINVAL');
    expect([unregister(address + 1n, PAGE), unregister(address, 1n)]).toEqual(['EINVAL', 'EINVAL']);
    expect([unregister(address, PAGE), unregister(address + 8n * PAGE, PAGE)]).toEqual(['ENOENT', 'ENOENT']);
    expect(kernel.pinnedBytes).toBe(4 * 4096);
    expect(unregister(address, 4n * PAGE)).toBe(0);
    expect([unregister(address, 4n * PAGE), kernel.pinnedBytes]).toEqual(['ENOENT', 0]);
  });

  test('what is mapped is not kept by refusing to unregister it: it stays pinned, and is nobody’s', () => {
    const { register, unregister, map, unmap } = container(2);
    expect(register(memory.address, PAGE)).toBe(0);
    expect(map(0n, PAGE)).toBe(0);
    const pinned = kernel.pinnedBytes;
    expect(unregister(memory.address, PAGE)).toBe(0);
    expect([unregister(memory.address, PAGE), kernel.pinnedBytes]).toEqual(['ENOENT', pinned]);
    expect(kernel.device().dmaWrite(0n, Uint8Array.of(7))).toBe(0);
    expect(unmap(0n, PAGE)).toBe(0);
    expect(register(memory.address, PAGE), 'found again').toBe(0);
    expect(kernel.pinnedBytes).toBe(pinned);
  });

  test('what another container has registered is mapped too, and registered by both it is pinned once', () => {
    start({ iommus: [{ tce: {} }], devices: [{ name: 'vfio0' }, { name: 'vfio1' }] });
    const [one, other] = [container(2), container(2, undefined, 'vfio1')];
    expect([one.register(memory.address, PAGE), other.register(memory.address, PAGE)]).toEqual([0, 0]);
    expect(kernel.pinnedBytes).toBe(4096);
    expect(other.unregister(memory.address, PAGE)).toBe(0);
    expect(other.map(0n, PAGE)).toBe(0);
    expect(kernel.device('vfio1').hostPfn(0, READ_WRITE)).toBe(pfnOf(memory.address));
  });

  test('EEH_PE_OP', () => {
    const { fd } = container(2);
    const eeh = (flags: number, op: number, on = fd) => call(on, uapi.VFIO_EEH_PE_OP, 12, flags, op);
    expect([eeh(0, 4), eeh(1, 4), eeh(0, 10)]).toEqual([0, 'EINVAL', 'EINVAL']);
    expect(answer(kernel.ioctl(fd, uapi.VFIO_EEH_PE_OP, Number(NOWHERE)))).toBe('EFAULT');
    start({ iommus: [{ tce: { eeh: false } }] });
    expect(eeh(0, 4, container(2).fd)).toBe('ENODEV');
  });
});
