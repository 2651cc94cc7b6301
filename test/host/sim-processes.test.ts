import { beforeEach, expect, test } from 'vitest';
import { errno } from '../../src/host/errno.ts';
import { IommufdHost, type IommufdSpace } from '../../src/host/iommufd/index.ts';
import { ioctl } from '../../src/host/iommufd/uapi.ts';
import type { PortMemory } from '../../src/host/port.ts';
import { type SimKernel, type SimProcess, simKernel } from '../../src/host/sim/index.ts';
import { VFIO_IOMMU_MAP_DMA, VFIO_IOMMU_UNMAP_DMA, VFIO_SET_IOMMU } from '../../src/host/vfio/uapi.ts';
import { Type1Host } from '../../src/host/vfio-type1/index.ts';
import { READ_WRITE } from '../../src/memory/access.ts';
import { pfnOf } from '../../src/memory/address.ts';

/* Processes of the simulated kernel: what a child shares, and who pays for pinned memory. Random programs of both are compared with the real kernel (test/kernel/lockstep). */

const IOVA = 0x1000;
const PAGE = 4096;

let kernel: SimKernel;
let memory: PortMemory;
let pfn: number;

beforeEach(() => {
  kernel = simKernel();
  memory = kernel.allocate(4 * PAGE);
  pfn = pfnOf(memory.address);
});

function iommufd() {
  const host = new IommufdHost(kernel);
  const device = host.openDevice('/dev/vfio/devices/vfio0');
  const space = host.createSpace() as IommufdSpace;
  expect(space.attach(device)).toBe(0);
  return { host, device, space };
}

test('a descriptor closes its file when the child, too, has closed it', () => {
  const { space } = iommufd();
  expect(space.map(IOVA, pfn, 1, READ_WRITE)).toBe(0);
  const child = kernel.fork();
  for (const fd of [...kernel.current.files.keys()]) expect(kernel.close(fd)).toBe(0);
  expect(kernel.device().dmaWrite(BigInt(IOVA * PAGE), new Uint8Array([7]))).toBe(0);
  expect(new Uint8Array(memory.buffer)[0]).toBe(7);
  kernel.exit(child);
  expect(kernel.device().dmaWrite(BigInt(IOVA * PAGE), new Uint8Array([8]))).toBeLessThan(0);
  expect(kernel.live()).toMatchObject({ descriptors: 0, pinnedBytes: 0, domains: 0, groupsOwned: 0 });
});

test('a child has a copy of memory, and what was pinned stays the parent’s', () => {
  const { space } = iommufd();
  expect(space.map(IOVA, pfn, 1, READ_WRITE)).toBe(0);
  new Uint8Array(memory.buffer)[1] = 5;
  const child = kernel.fork();
  expect(kernel.device().dmaWrite(BigInt(IOVA * PAGE), new Uint8Array([7]))).toBe(0);
  expect([...child.memory.view(memory.address, 2)!]).toEqual([0, 5]);
  expect([...new Uint8Array(memory.buffer, 0, 2)]).toEqual([7, 5]);
});

/** A call of the child with a struct of its own: 32-bit fields as numbers, 64-bit ones as bigints. */
function call(child: SimProcess, fd: number, request: number, ...fields: readonly (number | bigint)[]): number {
  return kernel.as(child, () => {
    const struct = kernel.allocate(PAGE);
    const view = new DataView(struct.buffer);
    let at = 0;
    for (const field of fields) {
      if (typeof field === 'bigint') view.setBigUint64(at, field, true);
      else view.setUint32(at, field, true);
      at += typeof field === 'bigint' ? 8 : 4;
    }
    const result = kernel.ioctl(fd, request, struct);
    struct.release();
    return result;
  });
}

const bytes = (pages: number) => BigInt(pages * PAGE);

test('memory of a process that has ended stays while it is pinned, and can be pinned no more', () => {
  const { space, device, host } = iommufd();
  const child = kernel.fork();
  expect(call(child, host.fd, ioctl.IOMMU_IOAS_MAP, 40, 7, space.id, 0, memory.address, bytes(1), bytes(IOVA))).toBe(0);
  kernel.exit(child);
  expect(kernel.device().dmaWrite(bytes(IOVA), new Uint8Array([7]))).toBe(0);
  expect(new Uint8Array(memory.buffer)[0]).toBe(0);
  expect(space.detach(device)).toBe(0);
  expect(space.attach(device)).toBe(-errno.EFAULT);
});

test('iommufd counts what all processes of a user pin', () => {
  kernel.current.lockLimit = 3 * PAGE;
  const { space, host } = iommufd();
  const child = kernel.fork();
  const inChild = (pages: number) =>
    call(child, host.fd, ioctl.IOMMU_IOAS_MAP, 40, 7, space.id, 0, memory.address, bytes(pages), bytes(IOVA + 8));
  expect(space.map(IOVA, pfn, 2, READ_WRITE)).toBe(0);
  expect(inChild(2)).toBe(-errno.ENOMEM);
  expect(inChild(1)).toBe(0);
  expect(space.map(IOVA + 16, pfn, 1, READ_WRITE)).toBe(-errno.ENOMEM);
});

test('type1 counts what each process pins by itself', () => {
  kernel.current.lockLimit = 3 * PAGE;
  const host = new Type1Host(kernel);
  const space = host.createSpace();
  expect(space.attach(host.openDevice('/dev/vfio/1000#vfio0'))).toBe(0);
  const child = kernel.fork();
  const container = [...child.files].find(([, file]) => file.ioctlName(VFIO_SET_IOMMU) !== undefined)![0];
  const inChild = (pages: number, at: number) => call(child, container, VFIO_IOMMU_MAP_DMA, 32, 3, memory.address, bytes(at), bytes(pages));
  expect(space.map(IOVA, pfn, 2, READ_WRITE)).toBe(0);
  expect(inChild(2, IOVA + 8)).toBe(0);
  expect(inChild(2, IOVA + 12)).toBe(-errno.ENOMEM);
  expect(space.map(IOVA + 16, pfn, 2, READ_WRITE)).toBe(-errno.ENOMEM);
});

test('type1: who says where a mapping lies from now on pays for it, and he who did no more; until then no other group comes', () => {
  kernel = simKernel({ devices: [{ name: 'vfio0' }, { name: 'vfio1' }] });
  memory = kernel.allocate(4 * PAGE);
  const VADDR = 4;
  const host = new Type1Host(kernel);
  const space = host.createSpace();
  const [device, other] = kernel.devices.map(({ group, name }) => host.openDevice(`/dev/vfio/${group.number}#${name}`));
  expect(space.attach(device)).toBe(0);
  expect(space.map(IOVA, pfnOf(memory.address), 2, READ_WRITE)).toBe(0);
  const container = [...kernel.current.files].find(([, file]) => file.ioctlName(VFIO_SET_IOMMU) !== undefined)![0];
  expect(call(kernel.current, container, VFIO_IOMMU_UNMAP_DMA, 24, VADDR, bytes(IOVA), bytes(2))).toBe(0);
  expect(space.attach(other)).toBe(-errno.EBUSY);
  const pinned = kernel.live()['pinnedBytes'];
  const child = kernel.fork();
  expect(call(child, container, VFIO_IOMMU_MAP_DMA, 32, VADDR, memory.address, bytes(IOVA), bytes(2))).toBe(0);
  expect(kernel.live()['pinnedBytes']).toBe(pinned);
  kernel.current.lockLimit = 2 * PAGE;
  expect(space.map(IOVA + 8, pfnOf(memory.address), 2, READ_WRITE), 'the parent’s count is free again').toBe(0);
  expect(space.attach(other)).toBe(0);
});

test('type1 looks at the limit before it finds that a page is not there (lock step, 11000823)', () => {
  kernel.current.lockLimit = 3 * PAGE;
  const host = new Type1Host(kernel);
  const space = host.createSpace();
  expect(space.attach(host.openDevice('/dev/vfio/1000#vfio0'))).toBe(0);
  expect(space.map(IOVA, pfn, 5, READ_WRITE), 'four are there').toBe(-errno.ENOMEM);
  expect(space.map(IOVA, pfn + 2, 5, READ_WRITE), 'two are there').toBe(-errno.EFAULT);
  expect(kernel.live()).toMatchObject({ pinnedBytes: 0 });
});

test('pages at the end of all addresses are EOVERFLOW to who pins its own, and EFAULT to others', () => {
  kernel = simKernel({ iommus: [{ pageSizes: 2048n }] });
  const { space, host, device } = iommufd();
  const LAST_PAGE = (1n << 64n) - BigInt(PAGE);
  const mapHalf = (id: number, address: bigint, at: number) =>
    call(kernel.current, host.fd, ioctl.IOMMU_IOAS_MAP, 40, 7, id, 0, address, 2048n, bytes(at));
  expect(mapHalf(space.id, LAST_PAGE, IOVA)).toBe(-errno.EOVERFLOW);
  expect(mapHalf(space.id, LAST_PAGE - 2048n, IOVA)).toBe(-errno.EFAULT);
  const other = host.createSpace();
  expect(mapHalf(other.id, LAST_PAGE, IOVA)).toBe(0);
  expect(other.attach(device)).toBe(-errno.EOVERFLOW);
  expect(call(kernel.fork(), device.fd, ioctl.VFIO_DEVICE_ATTACH_IOMMUFD_PT, 12, 0, other.id)).toBe(-errno.EFAULT);
});

test('a page that two mappings of one piece of memory want is counted once', () => {
  kernel.current.lockLimit = 3 * PAGE;
  const { space, host } = iommufd();
  expect(space.map(IOVA, pfn, 2, READ_WRITE)).toBe(0);
  const { id } = space;
  expect(call(kernel.current, host.fd, ioctl.IOMMU_IOAS_COPY, 40, 7, id, id, bytes(2), bytes(IOVA + 4), bytes(IOVA))).toBe(0);
  expect(space.map(IOVA + 8, pfn, 2, READ_WRITE)).toBe(-errno.ENOMEM);
  expect(space.map(IOVA + 8, pfn, 1, READ_WRITE)).toBe(0);
});

test('IOAS_CHANGE_PROCESS: who calls is charged first, and pays from then on', () => {
  kernel.createFile('/dev/shm/ram', 4 * PAGE);
  kernel.current.lockLimit = 3 * PAGE;
  const { space, host } = iommufd();
  const file = kernel.open('/dev/shm/ram');
  const mapFile = (pages: number, at: number) =>
    call(kernel.current, host.fd, ioctl.IOMMU_IOAS_MAP_FILE, 40, 7, space.id, file, 0n, bytes(pages), bytes(at));
  const child = kernel.fork();
  const change = () => call(child, host.fd, ioctl.IOMMU_IOAS_CHANGE_PROCESS, 8, 0);
  expect(mapFile(2, IOVA)).toBe(0);
  // Both are of one user, whose account has the pages twice for a moment.
  expect(change()).toBe(-errno.ENOMEM);
  child.lockLimit = 4 * PAGE;
  expect(change()).toBe(0);
  expect(change(), 'again').toBe(0);
  expect(mapFile(2, IOVA + 8)).toBe(-errno.ENOMEM);
  expect(mapFile(1, IOVA + 8)).toBe(0);
  expect(space.map(IOVA + 16, pfn, 1, READ_WRITE)).toBe(-errno.ENOMEM);
  expect(space.unmap(IOVA, 2)).toBe(0);
  expect(space.map(IOVA + 16, pfn, 1, READ_WRITE)).toBe(0);
  expect(change(), 'memory of a process is no file').toBe(-errno.EINVAL);
});
