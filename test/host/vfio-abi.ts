import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { errnoName } from '../../src/host/errno.ts';
import type { Port, PortMemory } from '../../src/host/port.ts';
import * as uapi from '../../src/host/vfio/uapi.ts';

/**
 * VFIO's containers, groups and type1 driver, byte for byte, and what the kernel answers to each call that is wrong:
 * include/uapi/linux/vfio.h of Linux 7.3. The same cases run on the simulated kernel and on the real one; where they differ,
 * the simulated one is wrong.
 */

export interface VfioAbiFixture {
  readonly port: Port;
  /** A group's node, and the name of its device. */
  readonly group: string;
  readonly device: string;
  close(): void;
}

/** 32-bit fields as numbers, 64-bit ones as bigints. */
type Field = number | bigint;

const NOWHERE = 0x1000;
const PAGE = 0x1000n;
const IOVA = 0x100_0000n;
const TOP = 0xffff_ffff_ffff_f000n;
const MSI = 0xfee0_0000n;
const READ = 1;
const WRITE = 2;
const RW = READ | WRITE;
const VADDR = 4;
const ALL = 2;
const BITMAP = 1;

export function vfioAbi(name: string, create: () => VfioAbiFixture): void {
  describe(`VFIO's binary interface: ${name}`, () => {
    let fixture: VfioAbiFixture;
    let port: Port;
    let struct: PortMemory;
    let view: DataView;
    let memory: PortMemory;
    let container: number;
    let group: number;

    beforeEach(() => {
      fixture = create();
      port = fixture.port;
      struct = port.allocate(4096);
      view = new DataView(struct.buffer);
      memory = port.allocate(16 * 4096);
      container = port.open('/dev/vfio/vfio');
      group = port.open(fixture.group);
      expect([container, group].every((fd) => fd >= 0)).toBe(true);
    });

    afterEach(() => {
      port.close(group);
      port.close(container);
      struct.release();
      memory.release();
      fixture.close();
    });

    const answer = (result: number) => (result < 0 ? errnoName(result) : result);

    /** A call with a struct of these fields; the errno's name, or what is no error. */
    function call(fd: number, request: number, ...fields: readonly Field[]): string | number {
      new Uint8Array(struct.buffer).fill(0);
      let at = 0;
      for (const field of fields) {
        if (typeof field === 'bigint') view.setBigUint64(at, field, true);
        else view.setUint32(at, field, true);
        at += typeof field === 'bigint' ? 8 : 4;
      }
      return answer(port.ioctl(fd, request, struct));
    }

    /** A call that takes an integer, or a pointer that leads nowhere. */
    const value = (fd: number, request: number, argument = 0) => answer(port.ioctl(fd, request, argument));

    function type1(): void {
      expect(call(group, uapi.VFIO_GROUP_SET_CONTAINER, container)).toBe(0);
      expect(value(container, uapi.VFIO_SET_IOMMU, uapi.VFIO_TYPE1v2_IOMMU)).toBe(0);
    }

    const map = (flags: number, vaddr: bigint, iova: bigint, size: bigint) =>
      call(container, uapi.VFIO_IOMMU_MAP_DMA, 32, flags, vaddr, iova, size);
    const unmap = (iova: bigint, size: bigint, flags = 0) => call(container, uapi.VFIO_IOMMU_UNMAP_DMA, 24, flags, iova, size);
    const unmapped = () => view.getBigUint64(16, true);

    test('a container without a group answers for the interface only', () => {
      expect(value(container, uapi.VFIO_GET_API_VERSION)).toBe(0);
      expect(value(container, uapi.VFIO_CHECK_EXTENSION, uapi.VFIO_TYPE1v2_IOMMU)).toBe(1);
      expect(value(container, uapi.VFIO_CHECK_EXTENSION, uapi.VFIO_UNMAP_ALL)).toBe(1);
      expect(value(container, uapi.VFIO_CHECK_EXTENSION, 4711)).toBe(0);
      expect(value(container, uapi.VFIO_SET_IOMMU, uapi.VFIO_TYPE1v2_IOMMU)).toBe('EINVAL');
      expect(map(RW, memory.address, IOVA, PAGE)).toBe('EINVAL');
      expect(value(container, 0x3bff)).toBe('EINVAL');
    });

    test('a group is opened once', () => {
      expect(answer(port.open(fixture.group))).toBe('EBUSY');
    });

    test('GROUP_GET_STATUS', () => {
      expect(call(group, uapi.VFIO_GROUP_GET_STATUS, 7)).toBe('EINVAL');
      expect(value(group, uapi.VFIO_GROUP_GET_STATUS, NOWHERE)).toBe('EFAULT');
      expect(call(group, uapi.VFIO_GROUP_GET_STATUS, 8)).toBe(0);
      expect(view.getUint32(4, true)).toBe(uapi.VFIO_GROUP_FLAGS_VIABLE);
      type1();
      expect(call(group, uapi.VFIO_GROUP_GET_STATUS, 8)).toBe(0);
      expect(view.getUint32(4, true)).toBe(uapi.VFIO_GROUP_FLAGS_VIABLE | uapi.VFIO_GROUP_FLAGS_CONTAINER_SET);
    });

    test('GROUP_SET_CONTAINER and UNSET_CONTAINER', () => {
      expect(value(group, uapi.VFIO_GROUP_UNSET_CONTAINER)).toBe('EINVAL');
      expect(value(group, uapi.VFIO_GROUP_SET_CONTAINER, NOWHERE)).toBe('EFAULT');
      expect(call(group, uapi.VFIO_GROUP_SET_CONTAINER, 4711)).toBe('EBADF');
      const other = port.eventfd();
      expect(call(group, uapi.VFIO_GROUP_SET_CONTAINER, other)).toBe('EBADFD');
      port.close(other);
      expect(call(group, uapi.VFIO_GROUP_SET_CONTAINER, container)).toBe(0);
      expect(call(group, uapi.VFIO_GROUP_SET_CONTAINER, container)).toBe('EINVAL');
      expect(value(group, uapi.VFIO_GROUP_UNSET_CONTAINER)).toBe(0);
      expect(value(group, 0x3bff)).toBe('ENOTTY');
    });

    test('CHECK_EXTENSION asks the driver of the container, or all that are loaded', () => {
      const has = (extension: number) => value(container, uapi.VFIO_CHECK_EXTENSION, extension);
      const [TYPE1, NESTING] = [1, 6];
      expect([TYPE1, uapi.VFIO_TYPE1v2_IOMMU, uapi.VFIO_UPDATE_VADDR, NESTING].map(has)).toEqual([1, 1, 0, 0]);
      type1();
      expect([TYPE1, uapi.VFIO_TYPE1v2_IOMMU, uapi.VFIO_UPDATE_VADDR, NESTING].map(has)).toEqual([1, 1, 1, 0]);
    });

    test('version 1 of type1 unmaps what begins in the range, whole, and tells no dirty pages', () => {
      expect(call(group, uapi.VFIO_GROUP_SET_CONTAINER, container)).toBe(0);
      expect(value(container, uapi.VFIO_SET_IOMMU, uapi.VFIO_TYPE1_IOMMU)).toBe(0);
      for (const page of [0n, 4n]) expect(map(RW, memory.address, IOVA + page * PAGE, 4n * PAGE)).toBe(0);
      expect(unmap(IOVA + PAGE, 7n * PAGE)).toBe(0);
      expect(unmapped()).toBe(0n);
      expect(unmap(IOVA, PAGE)).toBe(0);
      expect(unmapped()).toBe(4n * PAGE);
      expect(unmap(IOVA, 5n * PAGE)).toBe(0);
      expect(unmapped()).toBe(4n * PAGE);
      expect(call(container, uapi.VFIO_IOMMU_DIRTY_PAGES, 8, 1)).toBe('EACCES');
    });

    test('SET_IOMMU', () => {
      expect(call(group, uapi.VFIO_GROUP_SET_CONTAINER, container)).toBe(0);
      expect(value(container, uapi.VFIO_SET_IOMMU, 4711)).toBe('ENODEV');
      expect(value(container, uapi.VFIO_SET_IOMMU, uapi.VFIO_TYPE1v2_IOMMU)).toBe(0);
      expect(value(container, uapi.VFIO_SET_IOMMU, uapi.VFIO_TYPE1v2_IOMMU)).toBe('EINVAL');
      expect(value(container, 0x3bff)).toBe('ENOTTY');
    });

    test('GROUP_GET_DEVICE_FD', () => {
      const deviceFd = (wanted: string) => {
        new Uint8Array(struct.buffer).fill(0).set(new TextEncoder().encode(wanted));
        return port.ioctl(group, uapi.VFIO_GROUP_GET_DEVICE_FD, struct);
      };
      expect(answer(deviceFd(fixture.device))).toBe('EINVAL');
      expect(value(group, uapi.VFIO_GROUP_GET_DEVICE_FD, NOWHERE)).toBe('EFAULT');
      type1();
      expect(answer(deviceFd('none'))).toBe('ENODEV');
      const device = deviceFd(fixture.device);
      expect(device).toBeGreaterThan(0);
      expect(value(group, uapi.VFIO_GROUP_UNSET_CONTAINER)).toBe('EBUSY');
      port.close(device);
      expect(value(group, uapi.VFIO_GROUP_UNSET_CONTAINER)).toBe(0);
    });

    test('the last group takes the IOMMU driver with it', () => {
      type1();
      expect(map(RW, memory.address, IOVA, PAGE)).toBe(0);
      expect(value(group, uapi.VFIO_GROUP_UNSET_CONTAINER)).toBe(0);
      expect(unmap(IOVA, PAGE)).toBe('EINVAL');
      type1();
      expect(unmap(IOVA, PAGE)).toBe(0);
      expect(unmapped()).toBe(0n);
    });

    test('GET_INFO', () => {
      type1();
      expect(call(container, uapi.VFIO_IOMMU_GET_INFO, 15)).toBe('EINVAL');
      expect(value(container, uapi.VFIO_IOMMU_GET_INFO, NOWHERE)).toBe('EFAULT');
      expect(call(container, uapi.VFIO_IOMMU_GET_INFO, 24)).toBe(0);
      expect(view.getUint32(4, true), 'page sizes and capabilities').toBe(3);
      expect(view.getUint32(16, true), 'no room for the chain').toBe(0);
      const wanted = view.getUint32(0, true);
      expect(wanted).toBeGreaterThan(24);
      expect(call(container, uapi.VFIO_IOMMU_GET_INFO, wanted - 1)).toBe(0);
      expect(view.getUint32(16, true)).toBe(0);
      expect(call(container, uapi.VFIO_IOMMU_GET_INFO, wanted)).toBe(0);
      const chain = new Map<number, number>();
      for (let at = view.getUint32(16, true); at !== 0; at = view.getUint32(at + 4, true)) chain.set(view.getUint16(at, true), at);
      expect([...chain.keys()], 'migration, mappings left, ranges').toEqual([2, 3, 1]);
      expect(view.getBigUint64(chain.get(2)! + 16, true)).toBe(PAGE);
      expect(view.getBigUint64(chain.get(2)! + 24, true)).toBe(1n << 28n);
      expect(view.getUint32(chain.get(3)! + 8, true)).toBe(65535);
      expect(view.getBigUint64(chain.get(1)! + 16, true)).toBe(0n);
    });

    test('MAP_DMA', () => {
      type1();
      const { address } = memory;
      expect(call(container, uapi.VFIO_IOMMU_MAP_DMA, 31, RW, address, IOVA, PAGE)).toBe('EINVAL');
      expect(value(container, uapi.VFIO_IOMMU_MAP_DMA, NOWHERE)).toBe('EFAULT');
      expect(map(8, address, IOVA, PAGE)).toBe('EINVAL');
      expect(map(0, address, IOVA, PAGE)).toBe('EINVAL');
      expect(map(RW | VADDR, address, IOVA, PAGE)).toBe('EINVAL');
      expect(map(RW, address, IOVA, 0n)).toBe('EINVAL');
      expect(map(RW, address, IOVA, 0x800n)).toBe('EINVAL');
      expect(map(RW, address, IOVA + 0x800n, PAGE)).toBe('EINVAL');
      expect(map(RW, address + 0x800n, IOVA, PAGE)).toBe('EINVAL');
      expect(map(RW, address, TOP, 2n * PAGE)).toBe('EOVERFLOW');
      expect(map(RW, TOP, IOVA, 2n * PAGE)).toBe('EOVERFLOW');
      expect(map(RW, address, MSI, PAGE)).toBe('EINVAL');
      expect(map(RW, address, TOP, PAGE)).toBe('EINVAL');
      expect(map(RW, PAGE, IOVA, PAGE)).toBe('EFAULT');
      expect(map(VADDR, address, IOVA, PAGE)).toBe('ENOENT');
      expect(map(RW, address, IOVA, 4n * PAGE)).toBe(0);
      expect(map(RW, address, IOVA + 3n * PAGE, 4n * PAGE)).toBe('EEXIST');
      expect(map(VADDR, address, IOVA, 4n * PAGE)).toBe('EINVAL');
    });

    test('UNMAP_DMA', () => {
      type1();
      const { address } = memory;
      for (const page of [0n, 4n]) expect(map(RW, address, IOVA + page * PAGE, 4n * PAGE)).toBe(0);
      expect(call(container, uapi.VFIO_IOMMU_UNMAP_DMA, 23, 0, IOVA, 8n * PAGE)).toBe('EINVAL');
      expect(value(container, uapi.VFIO_IOMMU_UNMAP_DMA, NOWHERE)).toBe('EFAULT');
      expect(unmap(IOVA, 8n * PAGE, 8)).toBe('EINVAL');
      expect(unmap(IOVA, 8n * PAGE, ALL)).toBe('EINVAL');
      expect(unmap(IOVA, 0n)).toBe('EINVAL');
      expect(unmap(IOVA + 0x800n, PAGE)).toBe('EINVAL');
      expect(unmap(IOVA, 0x800n)).toBe('EINVAL');
      expect(unmap(TOP, 2n * PAGE)).toBe('EOVERFLOW');
      expect(unmap(IOVA, 2n * PAGE), 'a part').toBe('EINVAL');
      expect(unmap(IOVA + PAGE, 7n * PAGE), 'a part').toBe('EINVAL');
      expect(unmap(IOVA - PAGE, 6n * PAGE), 'one and a part').toBe('EINVAL');
      expect(unmap(IOVA - PAGE, 10n * PAGE)).toBe(0);
      expect(unmapped()).toBe(8n * PAGE);
      expect(unmap(IOVA, PAGE), 'nothing').toBe(0);
      expect(unmapped()).toBe(0n);
      expect(map(RW, address, IOVA, PAGE)).toBe(0);
      expect(unmap(0n, 0n, ALL)).toBe(0);
      expect(unmapped()).toBe(PAGE);
    });

    test('a mapping changes its address when it was declared invalid', () => {
      type1();
      expect(map(RW, memory.address, IOVA, PAGE)).toBe(0);
      expect(unmap(IOVA, PAGE, VADDR)).toBe(0);
      expect(unmapped()).toBe(PAGE);
      expect(unmap(IOVA, PAGE, VADDR)).toBe('EINVAL');
      expect(map(VADDR, memory.address, IOVA, PAGE)).toBe(0);
      expect(unmap(IOVA, PAGE)).toBe(0);
    });

    test('DIRTY_PAGES, and the bitmap of an unmap', () => {
      type1();
      const dirty = (flags: number, ...rest: Field[]) =>
        call(container, uapi.VFIO_IOMMU_DIRTY_PAGES, 8 + (rest.length > 0 ? 40 : 0), flags, ...rest);
      const bitmap = memory.address + 8n * PAGE;
      const get = (iova: bigint, size: bigint, pageBytes = PAGE, bytes = 8n) => dirty(4, iova, size, pageBytes, bytes, bitmap);
      const bits = () => new Uint32Array(memory.buffer, Number(8n * PAGE))[0];
      expect(call(container, uapi.VFIO_IOMMU_DIRTY_PAGES, 7, 1)).toBe('EINVAL');
      expect(dirty(3)).toBe('EINVAL');
      expect(dirty(8)).toBe('EINVAL');
      expect(map(RW, memory.address, IOVA, 2n * PAGE)).toBe(0);
      expect(get(IOVA, 2n * PAGE), 'not tracking').toBe('EINVAL');
      expect(dirty(1)).toBe(0);
      expect(dirty(1), 'again').toBe(0);
      expect(call(container, uapi.VFIO_IOMMU_DIRTY_PAGES, 8, 4), 'no room').toBe('EINVAL');
      expect(get(IOVA, 0n)).toBe('EINVAL');
      expect(get(IOVA, 2n * PAGE, 0x2000n)).toBe('EINVAL');
      expect(get(IOVA, 2n * PAGE, PAGE, 0n)).toBe('EINVAL');
      expect(get(IOVA, 65n * PAGE), 'a bitmap of 64 bits').toBe('EINVAL');
      expect(get(IOVA + 0x800n, 2n * PAGE)).toBe('EINVAL');
      expect(get(TOP, 2n * PAGE)).toBe('EOVERFLOW');
      expect(get(IOVA, PAGE), 'a part of a mapping').toBe('EINVAL');
      expect(get(IOVA - PAGE, 5n * PAGE)).toBe(0);
      expect(bits()).toBe(0b110);
      // Linux shifts its own bitmap in place for an answer that begins before the mapping; a new mapping has a new one.
      expect(unmap(IOVA, 2n * PAGE)).toBe(0);
      expect(map(RW, memory.address, IOVA, 2n * PAGE)).toBe(0);
      const withBitmap = (size: bigint, pageBytes = PAGE, flags = BITMAP) =>
        call(container, uapi.VFIO_IOMMU_UNMAP_DMA, 48, flags, IOVA, size, pageBytes, 8n, bitmap);
      expect(unmap(IOVA, 2n * PAGE, BITMAP), 'no room').toBe('EINVAL');
      expect(withBitmap(2n * PAGE, PAGE, BITMAP | ALL)).toBe('EINVAL');
      expect(withBitmap(2n * PAGE, 0x2000n)).toBe('EINVAL');
      new Uint32Array(memory.buffer, Number(8n * PAGE)).fill(0, 0, 2);
      expect(withBitmap(2n * PAGE)).toBe(0);
      expect(unmapped()).toBe(2n * PAGE);
      expect(bits()).toBe(0b11);
      expect(dirty(2)).toBe(0);
      expect(dirty(2), 'again').toBe(0);
      expect(map(RW, memory.address, IOVA, PAGE)).toBe(0);
      expect(withBitmap(PAGE), 'not tracking').toBe('EINVAL');
    });

    test('a group takes an iommufd for its container: the device is attached to the space of the old calls', () => {
      const iommufd = port.open('/dev/iommu');
      const other = port.open('/dev/iommu');
      const setContainer = (fd: number) => call(group, uapi.VFIO_GROUP_SET_CONTAINER, fd);
      const open = () => {
        new TextEncoder().encodeInto(`${fixture.device}\0`, new Uint8Array(struct.buffer));
        return port.ioctl(group, uapi.VFIO_GROUP_GET_DEVICE_FD, struct);
      };
      const map = () => call(iommufd, uapi.VFIO_IOMMU_MAP_DMA, 32, RW, memory.address, IOVA, PAGE);
      expect(map(), 'no space yet').toBe('ENODEV');
      expect(setContainer(iommufd)).toBe(0);
      expect(setContainer(container)).toBe('EINVAL');
      expect(call(group, uapi.VFIO_GROUP_GET_STATUS, 8, 0)).toBe(0);
      expect(view.getUint32(4, true) & 3, 'viable, and in a container').toBe(3);
      expect(map()).toBe(0);
      const device = open();
      expect(device).toBeGreaterThanOrEqual(0);
      expect(call(iommufd, uapi.VFIO_IOMMU_UNMAP_DMA, 24, 0, IOVA, PAGE)).toBe(0);
      expect(call(iommufd, uapi.VFIO_IOMMU_MAP_DMA, 32, RW, memory.address, MSI, PAGE), 'reserved by the device').toBe('EINVAL');
      // The device stays where it is, so nobody else gets its group.
      expect(value(group, uapi.VFIO_GROUP_UNSET_CONTAINER)).toBe(0);
      expect(setContainer(container)).toBe('EPERM');
      expect(setContainer(other)).toBe(0);
      const again = open();
      expect(again).toBeGreaterThanOrEqual(0);
      port.close(device);
      expect(value(group, uapi.VFIO_GROUP_UNSET_CONTAINER)).toBe(0);
      expect(setContainer(container), 'it is open still').toBe('EPERM');
      port.close(again);
      expect(setContainer(container)).toBe(0);
      port.close(iommufd);
      port.close(other);
    });
  });
}
