import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { errno, errnoName } from '../../src/host/errno.ts';
import { ioctl } from '../../src/host/iommufd/uapi.ts';
import { type AbiFixture, AbiMachine, type AbiName, FIXED, NO_ID, NOWHERE, READABLE, RW, U64_MAX, WRITEABLE } from './abi-machine.ts';
import { iommufdDeviceAbi } from './iommufd-abi-devices.ts';

/**
 * iommufd's structs, byte for byte, and what the kernel answers to each that is wrong: include/uapi/linux/iommufd.h and vfio.h of
 * Linux 7.3. The same cases run on the simulated kernel and on the real one; where they differ, the simulated one is wrong.
 */

/** Smallest struct that each ioctl takes. */
const minimums: Partial<Record<AbiName, number>> = {
  IOMMU_DESTROY: 8,
  IOMMU_IOAS_ALLOC: 12,
  IOMMU_IOAS_ALLOW_IOVAS: 24,
  IOMMU_IOAS_COPY: 40,
  IOMMU_IOAS_IOVA_RANGES: 32,
  IOMMU_IOAS_MAP: 40,
  IOMMU_IOAS_MAP_FILE: 40,
  IOMMU_IOAS_UNMAP: 24,
  IOMMU_OPTION: 24,
  IOMMU_VFIO_IOAS: 12,
  IOMMU_HWPT_ALLOC: 24,
  IOMMU_GET_HW_INFO: 32,
  IOMMU_HWPT_SET_DIRTY_TRACKING: 16,
  IOMMU_HWPT_GET_DIRTY_BITMAP: 48,
  IOMMU_HWPT_INVALIDATE: 32,
  IOMMU_FAULT_QUEUE_ALLOC: 16,
  IOMMU_VIOMMU_ALLOC: 24,
  IOMMU_VDEVICE_ALLOC: 24,
  IOMMU_IOAS_CHANGE_PROCESS: 8,
  IOMMU_VEVENTQ_ALLOC: 28,
  IOMMU_HW_QUEUE_ALLOC: 40,
};

export function iommufdAbi(name: string, create: () => AbiFixture): void {
  describe(`iommufd's binary interface: ${name}`, () => {
    let m: AbiMachine;

    beforeEach(() => {
      m = new AbiMachine(create());
    });

    afterEach(() => m.end());

    describe('the rule of sizes', () => {
      for (const [request, minimum] of Object.entries(minimums) as [AbiName, number][]) {
        test(`${request}: at least ${minimum} bytes, and zeros behind what the kernel knows`, () => {
          expect(m.sized(m.fd, request, minimum - 1)).toBe('EINVAL');
          expect(m.port.ioctl(m.fd, ioctl[request], 0x1000)).toBe(-errno.EFAULT);
          new Uint8Array(m.struct.buffer).fill(0);
          new DataView(m.struct.buffer).setUint32(0, 2048, true);
          new Uint8Array(m.struct.buffer)[2047] = 1;
          expect(errnoName(m.port.ioctl(m.fd, ioctl[request], m.struct))).toBe('E2BIG');
          const whole = m.sized(m.fd, request, 2048);
          expect(whole).not.toBe('E2BIG');
          if (request === 'IOMMU_FAULT_QUEUE_ALLOC' && whole === 0) m.port.close(m.out32(12));
        });
      }

      test('a number that is none is ENOTTY', () => {
        expect(m.port.ioctl(m.fd, (0x3b << 8) | 0xff, m.struct)).toBe(-errno.ENOTTY);
        expect(m.port.ioctl(m.fd, ioctl.IOMMU_IOAS_ALLOC | 0x4000_0000, m.struct)).toBe(-errno.ENOTTY);
        expect(m.port.ioctl(m.fd, (0x3b << 8) | 0xff, 0x1000)).toBe(-errno.ENOTTY);
        expect(m.port.ioctl(m.fd, ioctl.IOMMU_IOAS_ALLOC | 0x4000_0000, 0x1000), 'its size is read first').toBe(-errno.EFAULT);
      });
    });

    test('IOAS_ALLOC and DESTROY', () => {
      expect(m.call('IOMMU_IOAS_ALLOC', 1, 0)).toBe('EOPNOTSUPP');
      const first = m.ioas();
      const second = m.ioas();
      expect(second).not.toBe(first);
      expect(m.call('IOMMU_DESTROY', 0)).toBe('ENOENT');
      expect(m.call('IOMMU_DESTROY', NO_ID)).toBe('ENOENT');
      expect(m.call('IOMMU_DESTROY', first)).toBe(0);
      expect(m.call('IOMMU_DESTROY', first)).toBe('ENOENT');
    });

    test('IOAS_IOVA_RANGES', () => {
      const id = m.ioas();
      const ranges = (reserved: number, at: number, count: number, pointer: bigint) =>
        m.call('IOMMU_IOAS_IOVA_RANGES', at, count, reserved, pointer, 0n);
      expect(ranges(1, id, 8, m.memory.address)).toBe('EOPNOTSUPP');
      expect(ranges(0, NO_ID, 8, m.memory.address)).toBe('ENOENT');
      expect(ranges(0, id, 8, NOWHERE)).toBe('EFAULT');
      expect(ranges(0, id, 0, 0n)).toBe('EMSGSIZE');
      expect(m.out32(8)).toBe(1);
      expect(ranges(0, id, 8, m.memory.address)).toBe(0);
      expect([m.out32(8), m.out64(24)]).toEqual([1, 1n]);
      const view = new DataView(m.memory.buffer);
      expect([view.getBigUint64(0, true), view.getBigUint64(8, true)]).toEqual([0n, U64_MAX]);
    });

    test('IOAS_ALLOW_IOVAS', () => {
      const id = m.ioas();
      const allow = (count: number, ...values: readonly bigint[]) => {
        new BigUint64Array(m.memory.buffer).set(values);
        return m.call('IOMMU_IOAS_ALLOW_IOVAS', id, count, 0, m.memory.address);
      };
      expect(m.call('IOMMU_IOAS_ALLOW_IOVAS', id, 0, 1, 0n)).toBe('EOPNOTSUPP');
      expect(m.call('IOMMU_IOAS_ALLOW_IOVAS', NO_ID, 0, 0, 0n)).toBe('ENOENT');
      expect(m.call('IOMMU_IOAS_ALLOW_IOVAS', id, 1, 0, NOWHERE)).toBe('EFAULT');
      expect(allow(1, 0x2000n, 0x1000n)).toBe('EINVAL');
      expect(allow(1, 0x2000n, 0x2000n)).toBe('EINVAL');
      expect(allow(2, 0x2000n, 0x4fffn, 0x4000n, 0x5fffn)).toBe('EINVAL');
      expect(allow(2, 0x2000n, 0x4000n, 0x4000n, 0x5fffn)).toBe('EINVAL');
      expect(allow(2, 0x4000n, 0x5fffn, 0x2000n, 0x3fffn)).toBe(0);
      expect(allow(1, 0x8000_0000n, 0x8fff_ffffn)).toBe(0);
      expect(m.map(id, 0n, 0x1000n, 0n, WRITEABLE | READABLE)).toBe(0);
      expect(m.out64(32)).toBeGreaterThanOrEqual(0x8000_0000n);
      expect(m.out64(32)).toBeLessThanOrEqual(0x8fff_f000n);
      expect(allow(0)).toBe(0);
    });

    test('IOAS_MAP', () => {
      const id = m.ioas();
      expect(m.map(id, 0x1000n, 0x1000n, 0n, RW | 8)).toBe('EOPNOTSUPP');
      expect(m.call('IOMMU_IOAS_MAP', RW, id, 1, m.memory.address, 0x1000n, 0x1000n)).toBe('EOPNOTSUPP');
      expect(m.map(id, U64_MAX, 0x1000n)).toBe('EOVERFLOW');
      expect(m.map(id, 0x1000n, U64_MAX)).toBe('EOVERFLOW');
      expect(m.map(id, 0x1000n, 0x1000n, 0n, FIXED)).toBe('EINVAL');
      expect(m.map(NO_ID, 0x1000n, 0x1000n, 0n, FIXED)).toBe('EINVAL');
      expect(m.map(NO_ID, 0x1000n, 0x1000n)).toBe('ENOENT');
      expect(m.map(id, 0x1000n, 0n)).toBe('EINVAL');
      expect(m.map(id, 0x1000n, U64_MAX - 0xfffn)).toBe('EOVERFLOW');
      expect(m.call('IOMMU_IOAS_MAP', RW, id, 0, U64_MAX - 0xfffn, 0x2000n, 0x1000n)).toBe('EOVERFLOW');
      expect(m.map(id, U64_MAX - 0xfffn, 0x2000n)).toBe('EOVERFLOW');
      expect(m.map(id, 0x1000n, 0x2000n)).toBe(0);
      expect(m.map(id, 0x2000n, 0x2000n)).toBe('EEXIST');
      // Without hardware there is no alignment, and nobody looks at the m.memory.
      expect(m.map(id, 0x10_0001n, 100n, 7n)).toBe(0);
      expect(m.call('IOMMU_IOAS_MAP', RW, id, 0, NOWHERE, 0x1000n, 0x20_0000n)).toBe(0);
      expect(m.map(id, 0n, 0x3000n, 0n, READABLE)).toBe(0);
      expect(m.out64(32)).toBeGreaterThanOrEqual(0x1000n);
    });

    test('IOAS_MAP with hardware behind it', () => {
      const { cdev, id: device } = m.bind();
      const id = m.ioas();
      m.attach(cdev, id);
      expect(m.call('IOMMU_IOAS_IOVA_RANGES', id, 16, 0, m.memory.address, 0n)).toBe(0);
      expect(m.out64(24)).toBe(0x1000n);
      expect(m.map(id, 0x1800n, 0x1000n)).toBe('EINVAL');
      expect(m.map(id, 0x1000n, 0x800n)).toBe('EINVAL');
      expect(m.map(id, 0x1000n, 0x1000n, 0x800n)).toBe('EINVAL');
      expect(m.map(id, 0xfee0_0000n, 0x1000n)).toBe('EINVAL');
      expect(m.map(id, 0xfedf_f000n, 0x2000n)).toBe('EINVAL');
      expect(m.call('IOMMU_IOAS_MAP', RW, id, 0, NOWHERE, 0x1000n, 0x1000n)).toBe('EFAULT');
      expect(m.map(id, 0x1000n, 0x1_0000n)).toBe(0);
      expect(m.call('IOMMU_DESTROY', id)).toBe('EBUSY');
      expect(m.call('IOMMU_DESTROY', device)).toBe('EBUSY');
      m.close(cdev);
      expect(m.call('IOMMU_DESTROY', id)).toBe(0);
    });

    test('a device is refused where what is mapped or promised does not fit it', () => {
      const { cdev, id: device } = m.bind();
      const misaligned = m.ioas();
      expect(m.map(misaligned, 0x1000n, 100n)).toBe(0);
      expect(m.callOn(cdev, 'VFIO_DEVICE_ATTACH_IOMMUFD_PT', 0, misaligned)).toBe('EADDRINUSE');
      const reserved = m.ioas();
      expect(m.map(reserved, 0xfee0_0000n, 0x1000n)).toBe(0);
      expect(m.callOn(cdev, 'VFIO_DEVICE_ATTACH_IOMMUFD_PT', 0, reserved)).toBe('EADDRINUSE');
      const beyond = m.ioas();
      m.attach(cdev, beyond);
      expect(m.call('IOMMU_IOAS_IOVA_RANGES', beyond, 16, 0, m.memory.address, 0n)).toBe(0);
      const last = new DataView(m.memory.buffer).getBigUint64(m.out32(8) * 16 - 8, true);
      expect(m.callOn(cdev, 'VFIO_DEVICE_DETACH_IOMMUFD_PT', 0)).toBe(0);
      expect(m.map(beyond, U64_MAX - 0xffffn, 0x1000n)).toBe(0);
      if (last < U64_MAX) {
        expect(m.callOn(cdev, 'VFIO_DEVICE_ATTACH_IOMMUFD_PT', 0, beyond)).toBe('EADDRINUSE');
        expect(m.call('IOMMU_HWPT_ALLOC', 0, device, beyond, 0, 0, 0, 0, 0n, 0, 0)).toBe('EADDRINUSE');
      }
      const nowhere = m.ioas();
      expect(m.call('IOMMU_IOAS_MAP', RW, nowhere, 0, NOWHERE, 0x1000n, 0x1000n)).toBe(0);
      expect(m.callOn(cdev, 'VFIO_DEVICE_ATTACH_IOMMUFD_PT', 0, nowhere)).toBe('EFAULT');
      for (const id of [misaligned, reserved, beyond, nowhere]) expect(m.call('IOMMU_DESTROY', id)).toBe(0);
    });

    test('IOAS_UNMAP', () => {
      const id = m.ioas();
      for (const iova of [0x1000n, 0x2000n, 0x5000n]) expect(m.map(id, iova, 0x1000n)).toBe(0);
      expect(m.map(id, 0x8000n, 0x3000n)).toBe(0);
      expect(m.unmap(NO_ID, 0n, 0x1000n)).toBe('ENOENT');
      expect(m.unmap(id, 0n, 0n)).toBe('EINVAL');
      expect(m.unmap(id, U64_MAX, 1n)).toBe('EOVERFLOW');
      expect(m.unmap(id, 0x1000n, U64_MAX)).toBe('EOVERFLOW');
      expect(m.unmap(id, 0x2000n, U64_MAX - 0xfffn)).toBe('EOVERFLOW');
      expect(m.unmap(id, 0x9000n, 0x1000n)).toBe('ENOENT');
      expect(m.unmap(id, 0x9000n, 0x8000n)).toBe('ENOENT');
      expect(m.unmap(id, 0x1000n, 0x1000n)).toBe(0);
      expect(m.out64(16)).toBe(0x1000n);
      expect(m.unmap(id, 0x1000n, 0x1000n)).toBe('ENOENT');
      // Upwards: what lies below the one that sticks out is gone.
      expect(m.unmap(id, 0x2000n, 0x7000n)).toBe('ENOENT');
      expect(m.map(id, 0x2000n, 0x4000n)).toBe(0);
      expect(m.unmap(id, 0n, U64_MAX)).toBe(0);
      expect(m.out64(16)).toBe(0x7000n);
      expect(m.unmap(id, 0n, U64_MAX)).toBe(0);
      expect(m.out64(16)).toBe(0n);
    });

    test('IOAS_COPY', () => {
      const source = m.ioas();
      const destination = m.ioas();
      const copy = (flags: number, length: bigint, to: bigint, from: bigint, ids = [destination, source]) =>
        m.call('IOMMU_IOAS_COPY', flags, ids[0], ids[1], length, to, from);
      expect(m.map(source, 0x1000n, 0x2000n, 0n, FIXED | READABLE)).toBe(0);
      expect(m.map(source, 0x3000n, 0x1000n)).toBe(0);
      expect(copy(RW | 8, 0x1000n, 0x1000n, 0x1000n)).toBe('EOPNOTSUPP');
      expect(copy(RW, U64_MAX, 0x1000n, 0x1000n)).toBe('EOVERFLOW');
      expect(copy(FIXED, 0x1000n, 0x1000n, 0x1000n)).toBe('EINVAL');
      expect(copy(RW, 0x1000n, 0x1000n, 0x1000n, [destination, NO_ID])).toBe('ENOENT');
      expect(copy(RW, 0x1000n, 0x1000n, 0x1000n, [NO_ID, source])).toBe('ENOENT');
      expect(copy(RW, 0n, 0x1000n, 0x1000n)).toBe('EINVAL');
      expect(copy(RW, 0x4000n, 0x1000n, 0x1000n)).toBe('ENOENT');
      expect(copy(RW, 0x3000n, 0x1000n, 0x1000n)).toBe('EPERM');
      expect(copy(FIXED | READABLE, 0x2800n, 0x1000n, 0x1800n)).toBe(0);
      expect(copy(FIXED | READABLE, 0x1000n, 0x2000n, 0x1000n)).toBe('EEXIST');
      expect(m.unmap(destination, 0x1000n, 0x2800n)).toBe(0);
      expect(copy(READABLE, 0x1000n, 0n, 0x3000n)).toBe(0);
      expect(m.out64(24)).toBeGreaterThanOrEqual(0x1000n);
    });

    test('IOAS_MAP_FILE and IOAS_CHANGE_PROCESS', () => {
      const file = m.opened(m.fixture.file);
      const id = m.ioas();
      const mapFile = (on: number, start: bigint, length: bigint, iova: bigint, flags = RW) =>
        m.call('IOMMU_IOAS_MAP_FILE', flags, id, on, start, length, iova);
      expect(mapFile(file, 0n, 0x1000n, 0x1000n, RW | 8)).toBe('EOPNOTSUPP');
      expect(mapFile(file, 0n, 0x1000n, 0x1000n, FIXED)).toBe('EINVAL');
      expect(mapFile(0x7fff_0000, 0n, 0x1000n, 0x1000n)).toBe('EBADF');
      expect(mapFile(file, 0n, 0n, 0x1000n)).toBe('EINVAL');
      expect(mapFile(file, 0x1000n, 0x2000n, 0x1000n)).toBe(0);
      expect(mapFile(file, 0n, 0x1000n, 0x2000n)).toBe('EEXIST');
      expect(m.call('IOMMU_IOAS_CHANGE_PROCESS', 1)).toBe('EOPNOTSUPP');
      expect(m.call('IOMMU_IOAS_CHANGE_PROCESS', 0)).toBe(0);
      expect(m.map(id, 0x10_0000n, 0x1000n)).toBe(0);
      expect(m.call('IOMMU_IOAS_CHANGE_PROCESS', 0)).toBe('EINVAL');
      expect(m.unmap(id, 0n, U64_MAX)).toBe(0);
      const { cdev } = m.bind();
      m.attach(cdev, id);
      expect(mapFile(m.fd, 0n, 0x1000n, 0x1000n)).toBe('EINVAL');
      expect(mapFile(file, 0n, 0x1_0000n, 0x1000n)).toBe(0);
    });

    test('a file stays open while it is mapped', () => {
      expect(m.call('IOMMU_FAULT_QUEUE_ALLOC', 0, 0, 0)).toBe(0);
      const [queue, fd] = [m.out32(8), m.out32(12)];
      const [id, other] = [m.ioas(), m.ioas()];
      expect(m.call('IOMMU_IOAS_MAP_FILE', RW, id, fd, 0n, 0x2000n, 0x1000n)).toBe(0);
      expect(m.call('IOMMU_IOAS_COPY', RW, other, id, 0x1000n, 0x1000n, 0x1000n)).toBe(0);
      m.port.close(fd);
      expect(m.call('IOMMU_DESTROY', queue)).toBe('EBUSY');
      expect(m.call('IOMMU_DESTROY', id)).toBe(0);
      expect(m.call('IOMMU_DESTROY', queue), 'the copy').toBe('EBUSY');
      expect(m.unmap(other, 0x1000n, 0x1000n)).toBe(0);
      expect(m.call('IOMMU_DESTROY', queue)).toBe(0);
    });

    test('OPTION', () => {
      const option = (id: number, op: number, object: number, value: bigint, reserved = 0) =>
        m.call('IOMMU_OPTION', id, [op], [reserved], object, value);
      expect(option(0, 0, 0, 2n)).toBe('EINVAL');
      expect(option(0, 0, 0, 1n)).toBe(0);
      expect(option(0, 1, 0, 0n)).toBe(0);
      expect(m.out64(16)).toBe(1n);
      expect(option(0, 0, 0, 0n)).toBe(0);
      const id = m.ioas();
      expect(option(0, 0, 0, 0n)).toBe('EBUSY');
      expect(option(0, 1, 0, 0n, 1)).toBe('EOPNOTSUPP');
      expect(option(0, 1, id, 0n)).toBe('EOPNOTSUPP');
      expect(option(0, 2, 0, 0n)).toBe('EOPNOTSUPP');
      expect(option(2, 1, id, 0n)).toBe('EOPNOTSUPP');
      expect(option(1, 1, NO_ID, 0n)).toBe('ENOENT');
      expect(option(1, 2, id, 0n)).toBe('EOPNOTSUPP');
      expect(option(1, 0, id, 2n)).toBe('EINVAL');
      expect(option(1, 1, id, 0n)).toBe(0);
      expect(m.out64(16)).toBe(1n);
      expect(option(1, 0, id, 0n)).toBe(0);
      expect(m.map(id, 0x1800n, 0x1000n)).toBe('EINVAL');
      expect(option(1, 0, id, 1n)).toBe(0);
      expect(m.map(id, 0x1800n, 0x1000n)).toBe(0);
      expect(option(1, 0, id, 0n)).toBe('EADDRINUSE');
      const { cdev } = m.bind();
      const attached = m.ioas();
      m.attach(cdev, attached);
      expect(option(1, 0, attached, 0n)).toBe(0);
      expect(option(1, 0, attached, 1n)).toBe(0);
      expect(m.map(attached, 0x1000n, 0x1000n)).toBe(0);
      expect(option(1, 0, attached, 0n)).toBe('EINVAL');
    });

    test('VFIO_IOAS', () => {
      const vfio = (op: number, id: number, reserved = 0) => m.call('IOMMU_VFIO_IOAS', id, [op], [reserved]);
      const id = m.ioas();
      expect(vfio(0, 0)).toBe('ENODEV');
      expect(vfio(0, 0, 1)).toBe('EOPNOTSUPP');
      expect(vfio(3, id)).toBe('EOPNOTSUPP');
      expect(vfio(1, NO_ID)).toBe('ENOENT');
      expect(vfio(1, id)).toBe(0);
      expect(vfio(0, 0)).toBe(0);
      expect(m.out32(4)).toBe(id);
      expect(vfio(2, 0)).toBe(0);
      expect(vfio(0, 0)).toBe('ENODEV');
      expect(vfio(1, id)).toBe(0);
      expect(m.call('IOMMU_DESTROY', id)).toBe(0);
      expect(vfio(0, 0)).toBe('ENODEV');
    });

    iommufdDeviceAbi(() => m);
  });
}
