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
    const unmap = (iova: bigint, bytes: bigint) => call(uapi.VFIO_IOMMU_UNMAP_DMA, 0, iova, bytes);
    const reaches = (page: bigint) => kernel.device().dmaWrite(IOVA + page * 4096n, Uint8Array.of(1)) === 0;
    return { kernel, host, space, struct, view, plain, call, map, unmap, reaches };
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
