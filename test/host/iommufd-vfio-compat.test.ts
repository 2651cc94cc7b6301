import { describe, expect, test } from 'vitest';
import { errno } from '../../src/host/errno.ts';
import { IommufdHost } from '../../src/host/iommufd/index.ts';
import { simKernel } from '../../src/host/sim/index.ts';
import * as uapi from '../../src/host/vfio/uapi.ts';
import { READ_WRITE } from '../../src/memory/access.ts';

/** VFIO's container calls on /dev/iommu (the kernel's vfio_compat.c): they work upon the IOAS that IOMMU_VFIO_IOAS names. */
describe('vfio_compat', () => {
  const IOVA = 0x10_0000n;
  const TYPE1 = 1n;

  function machine() {
    const kernel = simKernel();
    const host = new IommufdHost(kernel);
    const device = host.openDevice('/dev/vfio/devices/vfio0');
    const space = host.createSpace();
    expect(space.attach(device)).toBe(0);
    const memory = kernel.allocate(0x4000);
    const struct = kernel.allocate(256);
    const view = new DataView(struct.buffer);
    const plain = (request: number, argument: bigint) => kernel.ioctl(host.fd, request, Number(argument));
    const call = (request: number, flags: number, ...fields: readonly bigint[]) => {
      new Uint8Array(struct.buffer).fill(0);
      view.setUint32(0, 8 + 8 * fields.length, true);
      view.setUint32(4, flags, true);
      for (const [index, field] of fields.entries()) view.setBigUint64(8 + 8 * index, field, true);
      return kernel.ioctl(host.fd, request, struct);
    };
    const map = (flags: number, iova: bigint, bytes: bigint) => call(uapi.VFIO_IOMMU_MAP_DMA, flags, memory.address, iova, bytes);
    const unmap = (iova: bigint, bytes: bigint, flags = 0) => call(uapi.VFIO_IOMMU_UNMAP_DMA, flags, iova, bytes);
    const reaches = (page: bigint) => kernel.device().dmaWrite(IOVA + page * 4096n, Uint8Array.of(1)) === 0;
    const reads = (page: bigint) => kernel.device().dmaRead(IOVA + page * 4096n, new Uint8Array(1)) === 0;
    return { kernel, host, device, space, struct, view, plain, call, map, unmap, reaches, reads };
  }

  test('without an IOAS there is no device to map for', () => {
    const { plain, map, unmap, call, host } = machine();
    expect(plain(uapi.VFIO_GET_API_VERSION, 0n)).toBe(0);
    expect(plain(uapi.VFIO_CHECK_EXTENSION, 3n)).toBe(1);
    expect(plain(uapi.VFIO_CHECK_EXTENSION, 7n)).toBe(0);
    expect(plain(uapi.VFIO_SET_IOMMU, 3n)).toBe(-errno.ENODEV);
    expect(map(3, IOVA, 4096n)).toBe(-errno.ENODEV);
    expect(unmap(IOVA, 4096n)).toBe(-errno.ENODEV);
    expect(call(uapi.VFIO_IOMMU_GET_INFO, 0, 0n)).toBe(-errno.ENODEV);
    expect(plain(uapi.VFIO_CHECK_EXTENSION, 4n)).toBe(-errno.ENODEV);
    expect(plain(uapi.VFIO_IOMMU_ENABLE, 0n)).toBe(-errno.ENOTTY);
    host.close();
  });

  test('what is mapped there is in the IOAS, and what the IOAS maps is unmapped there', () => {
    const { host, space, plain, map, unmap, reaches, view } = machine();
    host.setVfioIoas(space);
    expect(plain(uapi.VFIO_SET_IOMMU, 3n)).toBe(0);
    expect(map(3, IOVA, 0x2000n)).toBe(0);
    expect([0n, 1n, 2n].map(reaches)).toEqual([true, true, false]);
    expect(map(3, IOVA, 4096n)).toBe(-errno.EEXIST);
    expect(map(8, IOVA, 4096n)).toBe(-errno.EINVAL);
    expect(unmap(IOVA, 4096n)).toBe(-errno.ENOENT);
    expect(space.unmap(Number(IOVA >> 12n), 2)).toBe(0);
    expect(space.map(Number(IOVA >> 12n), 0x7f000_0000, 1, READ_WRITE)).toBeLessThanOrEqual(0);
    space.unmap(Number(IOVA >> 12n), 1);
    expect(unmap(IOVA, 4096n), 'nothing is no error').toBe(0);
    expect(view.getBigUint64(16, true)).toBe(0n);
    host.setVfioIoas(null);
    expect(map(3, IOVA, 4096n)).toBe(-errno.ENODEV);
    host.close();
  });

  test('the older type unmaps in the middle of a mapping, for its pages are not combined', () => {
    const { host, space, plain, map, unmap, reaches, kernel } = machine();
    host.setVfioIoas(space);
    expect(plain(uapi.VFIO_SET_IOMMU, TYPE1)).toBe(0);
    expect(map(3, IOVA, 0x4000n)).toBe(0);
    expect(unmap(IOVA + 0x1000n, 4096n)).toBe(0);
    expect([0n, 1n, 2n, 3n].map(reaches)).toEqual([true, false, true, true]);
    expect(plain(uapi.VFIO_SET_IOMMU, 3n)).toBe(0);
    expect(unmap(IOVA, 0x4000n)).toBe(0);
    expect(kernel.pinnedBytes).toBe(0);
    host.close();
  });

  test('mappings are for what they say, and wrong calls change nothing', () => {
    const { host, space, plain, call, map, unmap, reaches, reads, view } = machine();
    const ALL = uapi.VFIO_DMA_UNMAP_FLAG_ALL;
    host.setVfioIoas(space);
    expect(plain(uapi.VFIO_SET_IOMMU, 7n)).toBe(-errno.EINVAL);
    for (const request of [uapi.VFIO_IOMMU_MAP_DMA, uapi.VFIO_IOMMU_UNMAP_DMA, uapi.VFIO_IOMMU_GET_INFO]) {
      expect(plain(request, 0x1000n)).toBe(-errno.EFAULT);
      expect(call(request, 0)).toBe(-errno.EINVAL);
    }
    expect(map(3, IOVA, 0n)).toBe(-errno.EINVAL);
    expect([map(1, IOVA, 4096n), map(2, IOVA + 4096n, 4096n)]).toEqual([0, 0]);
    expect([reads(0n), reaches(0n), reads(1n), reaches(1n)]).toEqual([true, false, false, true]);
    expect([unmap(IOVA, 4096n, 1), unmap(IOVA, 0n, ALL), unmap(0n, 4096n, ALL)]).toEqual([-errno.EINVAL, -errno.EINVAL, -errno.EINVAL]);
    expect([unmap(IOVA, 0n), unmap(2n ** 64n - 4096n, 8192n)]).toEqual([-errno.EINVAL, -errno.EOVERFLOW]);
    expect([reads(0n), reaches(1n)]).toEqual([true, true]);
    expect(unmap(0n, 0n, ALL)).toBe(0);
    expect([view.getBigUint64(16, true), reads(0n), reaches(1n)]).toEqual([8192n, false, false]);
    host.close();
  });

  test('a group that takes the iommufd for its container has the space that was chosen, or one is made for it', () => {
    for (const chosen of [true, false]) {
      const { kernel, host, device, space, struct, view, map } = machine();
      expect([space.detach(device), device.close()]).toEqual([0, null]);
      if (chosen) host.setVfioIoas(space);
      const group = kernel.open(`/dev/vfio/${kernel.device().group.number}`);
      view.setInt32(0, host.fd, true);
      const spaces = () => kernel.live()['ioas'];
      const before = spaces();
      expect(kernel.ioctl(group, uapi.VFIO_GROUP_SET_CONTAINER, struct)).toBe(0);
      expect([(spaces() ?? 0) - (before ?? 0), map(3, IOVA, 4096n)]).toEqual([chosen ? 0 : 1, 0]);
      expect(space.unmap(Number(IOVA >> 12n), 1)).toBe(chosen ? 0 : -errno.ENOENT);
      kernel.close(group);
      host.close();
    }
  });

  test('a space without devices is as coherent as any; one with a device, whose pages do not snoop, is not', () => {
    const { host, device, space, plain } = machine();
    const COHERENT = 4n;
    host.setVfioIoas(space);
    expect(plain(uapi.VFIO_CHECK_EXTENSION, COHERENT)).toBe(0);
    expect(space.detach(device)).toBe(0);
    expect(plain(uapi.VFIO_CHECK_EXTENSION, COHERENT)).toBe(1);
    host.close();
  });

  test('what the older type cannot cut is refused whole, and from the first address on nothing lies before', () => {
    const { host, device, space, plain, map, unmap, view } = machine();
    host.setVfioIoas(space);
    expect(plain(uapi.VFIO_SET_IOMMU, TYPE1)).toBe(0);
    expect(map(3, IOVA, 0x4000n)).toBe(0);
    expect(unmap(IOVA, 0x1800n), 'in a page').toBe(-errno.EINVAL);
    expect(space.detach(device)).toBe(0);
    expect(map(3, 0n, 0x4000n)).toBe(0);
    expect(unmap(0n, 0x1000n)).toBe(0);
    expect(view.getBigUint64(16, true)).toBe(0x1000n);
    host.close();
  });

  test('what was unmapped is unmapped, though it cannot be told', () => {
    const { kernel, host, space, map, reaches } = machine();
    host.setVfioIoas(space);
    expect(map(3, IOVA, 4096n)).toBe(0);
    const struct = kernel.allocate(4096, { writable: false });
    const view = new DataView(struct.buffer);
    view.setUint32(0, 24, true);
    for (const [at, value] of [IOVA, 4096n].entries()) view.setBigUint64(8 + 8 * at, value, true);
    expect(kernel.ioctl(host.fd, uapi.VFIO_IOMMU_UNMAP_DMA, struct)).toBe(-errno.EFAULT);
    expect(reaches(0n)).toBe(false);
    host.close();
  });

  test('the page sizes are those of every page table, as far as they are pages, and of the alignment upward', () => {
    const half = 2048n;
    for (const [pageSizes, expected] of [
      [0x4020_1000n, 0x4020_1000n],
      [0x20_0000n | half, 0x20_1000n],
      [0x1000n, 0x1000n],
    ]) {
      const kernel = simKernel({ iommus: [{ pageSizes }] });
      const host = new IommufdHost(kernel);
      const space = host.createSpace();
      expect(space.attach(host.openDevice('/dev/vfio/devices/vfio0'))).toBe(0);
      host.setVfioIoas(space);
      const struct = kernel.allocate(256);
      const view = new DataView(struct.buffer);
      view.setUint32(0, 24, true);
      expect(kernel.ioctl(host.fd, uapi.VFIO_IOMMU_GET_INFO, struct)).toBe(0);
      expect(view.getBigUint64(8, true)).toBe(expected);
      host.close();
    }
  });

  test('a capability that memory has no room for is EFAULT, wherever it begins', () => {
    const { host, space, kernel } = machine();
    host.setVfioIoas(space);
    const memory = kernel.allocate(4096);
    const view = new DataView(memory.buffer);
    const total = 24 + 16 + 16 + 2 * 16;
    /** A struct that ends with memory so many bytes after its beginning, and says that it is whole. */
    const info = (bytes: number, argsz = total) => {
      view.setUint32(4096 - bytes, argsz, true);
      return kernel.ioctl(host.fd, uapi.VFIO_IOMMU_GET_INFO, Number(memory.address) + 4096 - bytes);
    };
    expect([total, total - 8, 24 + 16 + 16 + 8, 24 + 16, 24].map((bytes) => info(bytes))).toEqual([
      0,
      -errno.EFAULT,
      -errno.EFAULT,
      -errno.EFAULT,
      -errno.EFAULT,
    ]);
    const struct = kernel.allocate(4096, { writable: false });
    new DataView(struct.buffer).setUint32(0, 24, true);
    expect(kernel.ioctl(host.fd, uapi.VFIO_IOMMU_GET_INFO, struct)).toBe(-errno.EFAULT);
    host.close();
  });

  test('the capability chain says where mappings can be, as far as there is room', () => {
    const { host, space, struct, view, kernel } = machine();
    host.setVfioIoas(space);
    const info = (argsz: number) => {
      new Uint8Array(struct.buffer).fill(0);
      view.setUint32(0, argsz, true);
      return kernel.ioctl(host.fd, uapi.VFIO_IOMMU_GET_INFO, struct);
    };
    expect(info(12)).toBe(-errno.EINVAL);
    expect(info(16)).toBe(0);
    // The struct, the mappings left, and two ranges beside the MSI window.
    const total = 24 + 16 + 16 + 2 * 16;
    expect([view.getUint32(0, true), view.getUint32(16, true)]).toEqual([total, 0]);
    expect(info(total)).toBe(0);
    expect(view.getUint32(16, true)).toBe(24);
    expect([view.getUint16(24, true), view.getUint32(28, true), view.getUint32(32, true)]).toEqual([3, 40, 0xffff_ffff]);
    expect([view.getUint16(40, true), view.getUint32(48, true)]).toEqual([1, 2]);
    expect([view.getBigUint64(56, true), view.getBigUint64(64, true)]).toEqual([0n, 0xfedf_ffffn]);
    host.close();
  });
});
