import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { errno, errnoName } from '../../src/host/errno.ts';
import { ioctl } from '../../src/host/iommufd/uapi.ts';
import type { Port, PortMemory } from '../../src/host/port.ts';

/**
 * iommufd's structs, byte for byte, and what the kernel answers to each that is wrong: include/uapi/linux/iommufd.h and vfio.h of
 * Linux 7.3. The same cases run on the simulated kernel and on the real one; where they differ, the simulated one is wrong.
 */

export interface AbiIommu {
  /** It says what it is (GET_HW_INFO), and allocates page tables with flags. */
  readonly describes: boolean;
  /** It makes vIOMMUs. */
  readonly virtual: boolean;
}

export interface AbiFixture {
  readonly port: Port;
  /** A device's node, for the cases that want one. */
  readonly device: string;
  /** A file of 64 KiB in shared memory. */
  readonly file: string;
  /** What the kernel's driver of the device's IOMMU has. */
  readonly iommu: AbiIommu;
  close(): void;
}

type Name = keyof typeof ioctl;
/** Fields by size: 32-bit ones as numbers, 64-bit ones as bigints, 16-bit ones as [value]. */
type Field = number | bigint | readonly [number];

const U64_MAX = 0xffff_ffff_ffff_ffffn;
const NOWHERE = 0x1000n;
const NO_ID = 4000;
const FIXED = 1;
const WRITEABLE = 2;
const READABLE = 4;
const RW = FIXED | WRITEABLE | READABLE;

function bytesOf(fields: readonly Field[]): number {
  return fields.reduce<number>((sum, field) => sum + (typeof field === 'bigint' ? 8 : typeof field === 'number' ? 4 : 2), 0);
}

/** Smallest struct that each ioctl takes. */
const minimums: Partial<Record<Name, number>> = {
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
    let fixture: AbiFixture;
    let port: Port;
    let struct: PortMemory;
    let memory: PortMemory;
    let fd: number;
    /** Closed after the case, whatever came of it. */
    const open: number[] = [];

    beforeEach(() => {
      fixture = create();
      port = fixture.port;
      struct = port.allocate(4096);
      memory = port.allocate(16 * 4096);
      fd = port.open('/dev/iommu');
      expect(fd).toBeGreaterThanOrEqual(0);
    });

    afterEach(() => {
      for (const on of open.splice(0)) port.close(on);
      port.close(fd);
      struct.release();
      memory.release();
      fixture.close();
    });

    /** Makes a call with the fields behind the struct's size, and gives the errno's name, or the number when it is none. */
    function call(request: Name, ...fields: readonly Field[]): string | number {
      return callOn(fd, request, ...fields);
    }

    function callOn(on: number, request: Name, ...fields: readonly Field[]): string | number {
      return sized(on, request, 4 + bytesOf(fields), ...fields);
    }

    function sized(on: number, request: Name, size: number, ...fields: readonly Field[]): string | number {
      new Uint8Array(struct.buffer).fill(0);
      const view = new DataView(struct.buffer);
      view.setUint32(0, size, true);
      let at = 4;
      for (const field of fields) {
        if (typeof field === 'bigint') view.setBigUint64(at, field, true);
        else if (typeof field === 'number') view.setUint32(at, field, true);
        else view.setUint16(at, field[0], true);
        at += bytesOf([field]);
      }
      const result = port.ioctl(on, ioctl[request], struct);
      return result < 0 ? errnoName(result) : result;
    }

    const out32 = (offset: number) => new DataView(struct.buffer).getUint32(offset, true);
    const out64 = (offset: number) => new DataView(struct.buffer).getBigUint64(offset, true);

    function ioas(): number {
      expect(call('IOMMU_IOAS_ALLOC', 0, 0)).toBe(0);
      return out32(8);
    }

    function opened(path: string): number {
      const on = port.open(path);
      expect(on).toBeGreaterThanOrEqual(0);
      open.push(on);
      return on;
    }

    function close(on: number): void {
      open.splice(open.indexOf(on), 1);
      port.close(on);
    }

    /** A bound device: its descriptor and its ID. */
    function bind(): { cdev: number; id: number } {
      const cdev = opened(fixture.device);
      expect(callOn(cdev, 'VFIO_DEVICE_BIND_IOMMUFD', 0, fd, 0)).toBe(0);
      return { cdev, id: out32(12) };
    }

    function attach(cdev: number, id: number): void {
      expect(callOn(cdev, 'VFIO_DEVICE_ATTACH_IOMMUFD_PT', 0, id)).toBe(0);
    }

    const map = (id: number, iova: bigint, length: bigint, offset = 0n, flags = RW) =>
      call('IOMMU_IOAS_MAP', flags, id, 0, memory.address + offset, length, iova);
    const unmap = (id: number, iova: bigint, length: bigint) => call('IOMMU_IOAS_UNMAP', id, iova, length);

    describe('the rule of sizes', () => {
      for (const [request, minimum] of Object.entries(minimums) as [Name, number][]) {
        test(`${request}: at least ${minimum} bytes, and zeros behind what the kernel knows`, () => {
          expect(sized(fd, request, minimum - 1)).toBe('EINVAL');
          expect(port.ioctl(fd, ioctl[request], 0x1000)).toBe(-errno.EFAULT);
          new Uint8Array(struct.buffer).fill(0);
          new DataView(struct.buffer).setUint32(0, 2048, true);
          new Uint8Array(struct.buffer)[2047] = 1;
          expect(errnoName(port.ioctl(fd, ioctl[request], struct))).toBe('E2BIG');
          const whole = sized(fd, request, 2048);
          expect(whole).not.toBe('E2BIG');
          if (request === 'IOMMU_FAULT_QUEUE_ALLOC' && whole === 0) port.close(out32(12));
        });
      }

      test('a number that is none is ENOTTY', () => {
        expect(port.ioctl(fd, (0x3b << 8) | 0xff, struct)).toBe(-errno.ENOTTY);
        expect(port.ioctl(fd, ioctl.IOMMU_IOAS_ALLOC | 0x4000_0000, struct)).toBe(-errno.ENOTTY);
      });
    });

    test('IOAS_ALLOC and DESTROY', () => {
      expect(call('IOMMU_IOAS_ALLOC', 1, 0)).toBe('EOPNOTSUPP');
      const first = ioas();
      const second = ioas();
      expect(second).not.toBe(first);
      expect(call('IOMMU_DESTROY', 0)).toBe('ENOENT');
      expect(call('IOMMU_DESTROY', NO_ID)).toBe('ENOENT');
      expect(call('IOMMU_DESTROY', first)).toBe(0);
      expect(call('IOMMU_DESTROY', first)).toBe('ENOENT');
    });

    test('IOAS_IOVA_RANGES', () => {
      const id = ioas();
      const ranges = (reserved: number, at: number, count: number, pointer: bigint) =>
        call('IOMMU_IOAS_IOVA_RANGES', at, count, reserved, pointer, 0n);
      expect(ranges(1, id, 8, memory.address)).toBe('EOPNOTSUPP');
      expect(ranges(0, NO_ID, 8, memory.address)).toBe('ENOENT');
      expect(ranges(0, id, 8, NOWHERE)).toBe('EFAULT');
      expect(ranges(0, id, 0, 0n)).toBe('EMSGSIZE');
      expect(out32(8)).toBe(1);
      expect(ranges(0, id, 8, memory.address)).toBe(0);
      expect([out32(8), out64(24)]).toEqual([1, 1n]);
      const view = new DataView(memory.buffer);
      expect([view.getBigUint64(0, true), view.getBigUint64(8, true)]).toEqual([0n, U64_MAX]);
    });

    test('IOAS_ALLOW_IOVAS', () => {
      const id = ioas();
      const allow = (count: number, ...values: readonly bigint[]) => {
        new BigUint64Array(memory.buffer).set(values);
        return call('IOMMU_IOAS_ALLOW_IOVAS', id, count, 0, memory.address);
      };
      expect(call('IOMMU_IOAS_ALLOW_IOVAS', id, 0, 1, 0n)).toBe('EOPNOTSUPP');
      expect(call('IOMMU_IOAS_ALLOW_IOVAS', NO_ID, 0, 0, 0n)).toBe('ENOENT');
      expect(call('IOMMU_IOAS_ALLOW_IOVAS', id, 1, 0, NOWHERE)).toBe('EFAULT');
      expect(allow(1, 0x2000n, 0x1000n)).toBe('EINVAL');
      expect(allow(1, 0x2000n, 0x2000n)).toBe('EINVAL');
      expect(allow(2, 0x2000n, 0x4fffn, 0x4000n, 0x5fffn)).toBe('EINVAL');
      expect(allow(2, 0x4000n, 0x5fffn, 0x2000n, 0x3fffn)).toBe(0);
      expect(allow(1, 0x8000_0000n, 0x8fff_ffffn)).toBe(0);
      expect(map(id, 0n, 0x1000n, 0n, WRITEABLE | READABLE)).toBe(0);
      expect(out64(32)).toBeGreaterThanOrEqual(0x8000_0000n);
      expect(out64(32)).toBeLessThanOrEqual(0x8fff_f000n);
      expect(allow(0)).toBe(0);
    });

    test('IOAS_MAP', () => {
      const id = ioas();
      expect(map(id, 0x1000n, 0x1000n, 0n, RW | 8)).toBe('EOPNOTSUPP');
      expect(call('IOMMU_IOAS_MAP', RW, id, 1, memory.address, 0x1000n, 0x1000n)).toBe('EOPNOTSUPP');
      expect(map(id, U64_MAX, 0x1000n)).toBe('EOVERFLOW');
      expect(map(id, 0x1000n, U64_MAX)).toBe('EOVERFLOW');
      expect(map(id, 0x1000n, 0x1000n, 0n, FIXED)).toBe('EINVAL');
      expect(map(NO_ID, 0x1000n, 0x1000n, 0n, FIXED)).toBe('EINVAL');
      expect(map(NO_ID, 0x1000n, 0x1000n)).toBe('ENOENT');
      expect(map(id, 0x1000n, 0n)).toBe('EINVAL');
      expect(call('IOMMU_IOAS_MAP', RW, id, 0, U64_MAX - 0xfffn, 0x2000n, 0x1000n)).toBe('EOVERFLOW');
      expect(map(id, U64_MAX - 0xfffn, 0x2000n)).toBe('EOVERFLOW');
      expect(map(id, 0x1000n, 0x2000n)).toBe(0);
      expect(map(id, 0x2000n, 0x2000n)).toBe('EEXIST');
      // Without hardware there is no alignment, and nobody looks at the memory.
      expect(map(id, 0x10_0001n, 100n, 7n)).toBe(0);
      expect(call('IOMMU_IOAS_MAP', RW, id, 0, NOWHERE, 0x1000n, 0x20_0000n)).toBe(0);
      expect(map(id, 0n, 0x3000n, 0n, READABLE)).toBe(0);
      expect(out64(32)).toBeGreaterThanOrEqual(0x1000n);
    });

    test('IOAS_MAP with hardware behind it', () => {
      const { cdev, id: device } = bind();
      const id = ioas();
      attach(cdev, id);
      expect(call('IOMMU_IOAS_IOVA_RANGES', id, 16, 0, memory.address, 0n)).toBe(0);
      expect(out64(24)).toBe(0x1000n);
      expect(map(id, 0x1800n, 0x1000n)).toBe('EINVAL');
      expect(map(id, 0x1000n, 0x800n)).toBe('EINVAL');
      expect(map(id, 0x1000n, 0x1000n, 0x800n)).toBe('EINVAL');
      expect(map(id, 0xfee0_0000n, 0x1000n)).toBe('EINVAL');
      expect(map(id, 0xfedf_f000n, 0x2000n)).toBe('EINVAL');
      expect(call('IOMMU_IOAS_MAP', RW, id, 0, NOWHERE, 0x1000n, 0x1000n)).toBe('EFAULT');
      expect(map(id, 0x1000n, 0x1_0000n)).toBe(0);
      expect(call('IOMMU_DESTROY', id)).toBe('EBUSY');
      expect(call('IOMMU_DESTROY', device)).toBe('EBUSY');
      close(cdev);
      expect(call('IOMMU_DESTROY', id)).toBe(0);
    });

    test('a device is refused where what is mapped or promised does not fit it', () => {
      const { cdev, id: device } = bind();
      const misaligned = ioas();
      expect(map(misaligned, 0x1000n, 100n)).toBe(0);
      expect(callOn(cdev, 'VFIO_DEVICE_ATTACH_IOMMUFD_PT', 0, misaligned)).toBe('EADDRINUSE');
      const reserved = ioas();
      expect(map(reserved, 0xfee0_0000n, 0x1000n)).toBe(0);
      expect(callOn(cdev, 'VFIO_DEVICE_ATTACH_IOMMUFD_PT', 0, reserved)).toBe('EADDRINUSE');
      const beyond = ioas();
      attach(cdev, beyond);
      expect(call('IOMMU_IOAS_IOVA_RANGES', beyond, 16, 0, memory.address, 0n)).toBe(0);
      const last = new DataView(memory.buffer).getBigUint64(out32(8) * 16 - 8, true);
      expect(callOn(cdev, 'VFIO_DEVICE_DETACH_IOMMUFD_PT', 0)).toBe(0);
      expect(map(beyond, U64_MAX - 0xffffn, 0x1000n)).toBe(0);
      if (last < U64_MAX) {
        expect(callOn(cdev, 'VFIO_DEVICE_ATTACH_IOMMUFD_PT', 0, beyond)).toBe('EADDRINUSE');
        expect(call('IOMMU_HWPT_ALLOC', 0, device, beyond, 0, 0, 0, 0, 0n, 0, 0)).toBe('EADDRINUSE');
      }
      const nowhere = ioas();
      expect(call('IOMMU_IOAS_MAP', RW, nowhere, 0, NOWHERE, 0x1000n, 0x1000n)).toBe(0);
      expect(callOn(cdev, 'VFIO_DEVICE_ATTACH_IOMMUFD_PT', 0, nowhere)).toBe('EFAULT');
      for (const id of [misaligned, reserved, beyond, nowhere]) expect(call('IOMMU_DESTROY', id)).toBe(0);
    });

    test('IOAS_UNMAP', () => {
      const id = ioas();
      for (const iova of [0x1000n, 0x2000n, 0x5000n]) expect(map(id, iova, 0x1000n)).toBe(0);
      expect(map(id, 0x8000n, 0x3000n)).toBe(0);
      expect(unmap(NO_ID, 0n, 0x1000n)).toBe('ENOENT');
      expect(unmap(id, 0n, 0n)).toBe('EINVAL');
      expect(unmap(id, U64_MAX, 1n)).toBe('EOVERFLOW');
      expect(unmap(id, 0x1000n, U64_MAX)).toBe('EOVERFLOW');
      expect(unmap(id, 0x2000n, U64_MAX - 0xfffn)).toBe('EOVERFLOW');
      expect(unmap(id, 0x9000n, 0x1000n)).toBe('ENOENT');
      expect(unmap(id, 0x9000n, 0x8000n)).toBe('ENOENT');
      expect(unmap(id, 0x1000n, 0x1000n)).toBe(0);
      expect(out64(16)).toBe(0x1000n);
      expect(unmap(id, 0x1000n, 0x1000n)).toBe('ENOENT');
      // Upwards: what lies below the one that sticks out is gone.
      expect(unmap(id, 0x2000n, 0x7000n)).toBe('ENOENT');
      expect(map(id, 0x2000n, 0x4000n)).toBe(0);
      expect(unmap(id, 0n, U64_MAX)).toBe(0);
      expect(out64(16)).toBe(0x7000n);
      expect(unmap(id, 0n, U64_MAX)).toBe(0);
      expect(out64(16)).toBe(0n);
    });

    test('IOAS_COPY', () => {
      const source = ioas();
      const destination = ioas();
      const copy = (flags: number, length: bigint, to: bigint, from: bigint, ids = [destination, source]) =>
        call('IOMMU_IOAS_COPY', flags, ids[0], ids[1], length, to, from);
      expect(map(source, 0x1000n, 0x2000n, 0n, FIXED | READABLE)).toBe(0);
      expect(map(source, 0x3000n, 0x1000n)).toBe(0);
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
      expect(unmap(destination, 0x1000n, 0x2800n)).toBe(0);
      expect(copy(READABLE, 0x1000n, 0n, 0x3000n)).toBe(0);
      expect(out64(24)).toBeGreaterThanOrEqual(0x1000n);
    });

    test('IOAS_MAP_FILE and IOAS_CHANGE_PROCESS', () => {
      const file = opened(fixture.file);
      const id = ioas();
      const mapFile = (on: number, start: bigint, length: bigint, iova: bigint, flags = RW) =>
        call('IOMMU_IOAS_MAP_FILE', flags, id, on, start, length, iova);
      expect(mapFile(file, 0n, 0x1000n, 0x1000n, RW | 8)).toBe('EOPNOTSUPP');
      expect(mapFile(file, 0n, 0x1000n, 0x1000n, FIXED)).toBe('EINVAL');
      expect(mapFile(0x7fff_0000, 0n, 0x1000n, 0x1000n)).toBe('EBADF');
      expect(mapFile(file, 0n, 0n, 0x1000n)).toBe('EINVAL');
      expect(mapFile(file, 0x1000n, 0x2000n, 0x1000n)).toBe(0);
      expect(mapFile(file, 0n, 0x1000n, 0x2000n)).toBe('EEXIST');
      expect(call('IOMMU_IOAS_CHANGE_PROCESS', 1)).toBe('EOPNOTSUPP');
      expect(call('IOMMU_IOAS_CHANGE_PROCESS', 0)).toBe(0);
      expect(map(id, 0x10_0000n, 0x1000n)).toBe(0);
      expect(call('IOMMU_IOAS_CHANGE_PROCESS', 0)).toBe('EINVAL');
      expect(unmap(id, 0n, U64_MAX)).toBe(0);
      const { cdev } = bind();
      attach(cdev, id);
      expect(mapFile(fd, 0n, 0x1000n, 0x1000n)).toBe('EINVAL');
      expect(mapFile(file, 0n, 0x1_0000n, 0x1000n)).toBe(0);
    });

    test('OPTION', () => {
      const option = (id: number, op: number, object: number, value: bigint, reserved = 0) =>
        call('IOMMU_OPTION', id, [op], [reserved], object, value);
      expect(option(0, 0, 0, 2n)).toBe('EINVAL');
      expect(option(0, 0, 0, 1n)).toBe(0);
      expect(option(0, 1, 0, 0n)).toBe(0);
      expect(out64(16)).toBe(1n);
      expect(option(0, 0, 0, 0n)).toBe(0);
      const id = ioas();
      expect(option(0, 0, 0, 0n)).toBe('EBUSY');
      expect(option(0, 1, 0, 0n, 1)).toBe('EOPNOTSUPP');
      expect(option(0, 1, id, 0n)).toBe('EOPNOTSUPP');
      expect(option(0, 2, 0, 0n)).toBe('EOPNOTSUPP');
      expect(option(2, 1, id, 0n)).toBe('EOPNOTSUPP');
      expect(option(1, 1, NO_ID, 0n)).toBe('ENOENT');
      expect(option(1, 2, id, 0n)).toBe('EOPNOTSUPP');
      expect(option(1, 0, id, 2n)).toBe('EINVAL');
      expect(option(1, 1, id, 0n)).toBe(0);
      expect(out64(16)).toBe(1n);
      expect(option(1, 0, id, 0n)).toBe(0);
      expect(map(id, 0x1800n, 0x1000n)).toBe('EINVAL');
      expect(option(1, 0, id, 1n)).toBe(0);
      expect(map(id, 0x1800n, 0x1000n)).toBe(0);
      expect(option(1, 0, id, 0n)).toBe('EADDRINUSE');
      const { cdev } = bind();
      const attached = ioas();
      attach(cdev, attached);
      expect(option(1, 0, attached, 0n)).toBe(0);
      expect(option(1, 0, attached, 1n)).toBe(0);
      expect(map(attached, 0x1000n, 0x1000n)).toBe(0);
      expect(option(1, 0, attached, 0n)).toBe('EINVAL');
    });

    test('VFIO_IOAS', () => {
      const vfio = (op: number, id: number, reserved = 0) => call('IOMMU_VFIO_IOAS', id, [op], [reserved]);
      const id = ioas();
      expect(vfio(0, 0)).toBe('ENODEV');
      expect(vfio(0, 0, 1)).toBe('EOPNOTSUPP');
      expect(vfio(3, id)).toBe('EOPNOTSUPP');
      expect(vfio(1, NO_ID)).toBe('ENOENT');
      expect(vfio(1, id)).toBe(0);
      expect(vfio(0, 0)).toBe(0);
      expect(out32(4)).toBe(id);
      expect(vfio(2, 0)).toBe(0);
      expect(vfio(0, 0)).toBe('ENODEV');
      expect(vfio(1, id)).toBe(0);
      expect(call('IOMMU_DESTROY', id)).toBe(0);
      expect(vfio(0, 0)).toBe('ENODEV');
    });

    test('HWPT_ALLOC', () => {
      const { cdev, id: device } = bind();
      const id = ioas();
      const alloc = (flags: number, dev: number, pt: number, type = 0, length = 0, reserved = 0, faults = 0) =>
        call('IOMMU_HWPT_ALLOC', flags, dev, pt, 0, reserved, type, length, memory.address, faults, 0);
      expect(alloc(0, device, id, 0, 0, 1)).toBe('EOPNOTSUPP');
      expect(alloc(0, device, id, 0, 8)).toBe('EINVAL');
      expect(alloc(0, device, id, 1, 0)).toBe('EINVAL');
      expect(alloc(0, NO_ID, id)).toBe('ENOENT');
      expect(alloc(0, device, NO_ID)).toBe('EINVAL');
      expect(alloc(0, device, device)).toBe('EINVAL');
      expect(alloc(0x100, device, id)).toBe('EOPNOTSUPP');
      expect(alloc(4, device, id, 0, 0, 0, NO_ID)).toBe(fixture.iommu.describes ? 'ENOENT' : 'EOPNOTSUPP');
      expect(alloc(5, device, id)).toBe('EOPNOTSUPP');
      expect(alloc(0, device, id)).toBe(0);
      const hwpt = out32(16);
      expect(alloc(0, device, hwpt)).toBe('EOPNOTSUPP');
      expect(call('IOMMU_DESTROY', id)).toBe('EBUSY');
      attach(cdev, hwpt);
      expect(call('IOMMU_DESTROY', hwpt)).toBe('EBUSY');
      expect(callOn(cdev, 'VFIO_DEVICE_DETACH_IOMMUFD_PT', 0)).toBe(0);
      expect(call('IOMMU_DESTROY', hwpt)).toBe(0);
      expect(call('IOMMU_DESTROY', id)).toBe(0);
    });

    test('GET_HW_INFO', () => {
      const { id: device } = bind();
      const info = (flags: number, dev: number, length: number, pointer: bigint, type = 0, reserved = 0) =>
        call('IOMMU_GET_HW_INFO', flags, dev, length, pointer, type, reserved, 0n);
      expect(info(2, device, 0, 0n)).toBe('EOPNOTSUPP');
      expect(info(0, device, 0, 0n, 0, 0x100)).toBe('EOPNOTSUPP');
      expect(info(0, NO_ID, 0, 0n)).toBe('ENOENT');
      expect(info(0, device, 64, NOWHERE)).toBe('EFAULT');
      expect(info(1, device, 0, 0n, 3)).toBe(fixture.iommu.describes ? 'EOPNOTSUPP' : 0);
      new Uint8Array(memory.buffer).fill(0xff);
      expect(info(0, device, 4096, memory.address)).toBe(0);
      expect(out32(12)).toBeLessThan(256);
      expect(new Uint8Array(memory.buffer, 256, 4096 - 256).every((byte) => byte === 0)).toBe(true);
      expect(new Uint8Array(memory.buffer)[4096]).toBe(0xff);
      expect(info(0, device, 0, 0n)).toBe(0);
    });

    test('HWPT_SET_DIRTY_TRACKING and HWPT_GET_DIRTY_BITMAP', () => {
      const { id: device } = bind();
      const id = ioas();
      expect(map(id, 0x1000n, 0x4000n)).toBe(0);
      expect(call('IOMMU_HWPT_ALLOC', 0, device, id, 0, 0, 0, 0, 0n, 0, 0)).toBe(0);
      const hwpt = out32(16);
      const bitmap = (on: number, flags: number, iova: bigint, length: bigint, size: bigint, reserved = 0) =>
        call('IOMMU_HWPT_GET_DIRTY_BITMAP', on, flags, reserved, iova, length, size, memory.address);
      expect(call('IOMMU_HWPT_SET_DIRTY_TRACKING', 2, hwpt, 0)).toBe('EOPNOTSUPP');
      expect(call('IOMMU_HWPT_SET_DIRTY_TRACKING', 1, NO_ID, 0)).toBe('ENOENT');
      expect(call('IOMMU_HWPT_SET_DIRTY_TRACKING', 1, hwpt, 0)).toBe('EOPNOTSUPP');
      expect(bitmap(hwpt, 2, 0x1000n, 0x1000n, 0x1000n)).toBe('EOPNOTSUPP');
      expect(bitmap(hwpt, 0, 0x1000n, 0x1000n, 0x1000n, 1)).toBe('EOPNOTSUPP');
      expect(bitmap(NO_ID, 0, 0x1000n, 0x1000n, 0x1000n)).toBe('ENOENT');
      expect(bitmap(hwpt, 0, U64_MAX - 0xfffn, 0x2000n, 0x1000n)).toBe('EOVERFLOW');
      expect(bitmap(hwpt, 0, 0x1800n, 0x1000n, 0x1000n)).toBe('EINVAL');
      expect(bitmap(hwpt, 0, 0x1000n, 0x1000n, 0n)).toBe('EINVAL');
      expect(bitmap(hwpt, 0, 0x1000n, 0x1000n, 0x2000n)).toBe('EINVAL');
      expect(bitmap(hwpt, 0, 0x1000n, 0x1000n, 0x1000n)).toBe('EOPNOTSUPP');
    });

    test('HWPT_INVALIDATE', () => {
      const id = ioas();
      const invalidate = (on: number, pointer: bigint, length: number, count: number, reserved = 0) =>
        call('IOMMU_HWPT_INVALIDATE', on, pointer, 0, length, count, reserved);
      expect(invalidate(id, memory.address, 24, 1, 1)).toBe('EOPNOTSUPP');
      expect(out32(24)).toBe(0);
      expect(invalidate(id, 0n, 24, 1)).toBe('EINVAL');
      expect(invalidate(id, memory.address, 0, 1)).toBe('EINVAL');
      expect(invalidate(NO_ID, memory.address, 24, 1)).toBe('ENOENT');
      expect(invalidate(id, memory.address, 24, 1)).toBe('EINVAL');
      expect(out32(24)).toBe(0);
    });

    test('FAULT_QUEUE_ALLOC, and reading and writing it', () => {
      expect(call('IOMMU_FAULT_QUEUE_ALLOC', 1, 0, 0)).toBe('EOPNOTSUPP');
      expect(call('IOMMU_FAULT_QUEUE_ALLOC', 0, 0, 0)).toBe(0);
      const [id, queue] = [out32(8), out32(12)];
      expect(port.read(queue, memory, 40)).toBe(0);
      expect(port.read(queue, memory, 39)).toBe(-errno.ESPIPE);
      new Uint8Array(memory.buffer).fill(0);
      expect(port.write(queue, memory, 8)).toBe(-errno.EINVAL);
      expect(port.write(queue, memory, 7)).toBe(-errno.ESPIPE);
      expect(port.poll(queue, 0)).toBe(0);
      expect(call('IOMMU_DESTROY', id)).toBe('EBUSY');
      port.close(queue);
      expect(call('IOMMU_DESTROY', id)).toBe(0);
    });

    test('VIOMMU_ALLOC and what stands on it', () => {
      const { id: device } = bind();
      const id = ioas();
      const viommu = (flags: number, type: number, dev: number) => call('IOMMU_VIOMMU_ALLOC', flags, type, dev, id, 0, 0, 0, 0n);
      expect(viommu(1, 1, device)).toBe('EOPNOTSUPP');
      expect(viommu(0, 0, device)).toBe('EOPNOTSUPP');
      expect(viommu(0, 1, NO_ID)).toBe('ENOENT');
      // The IOAS is no page table for it to stand on.
      expect(viommu(0, 1, device)).toBe(fixture.iommu.virtual ? 'ENOENT' : 'EOPNOTSUPP');
      expect(call('IOMMU_VDEVICE_ALLOC', id, device, 0, 1n)).toBe('ENOENT');
      const events = (flags: number, type: number, depth: number, reserved = 0) =>
        call('IOMMU_VEVENTQ_ALLOC', flags, id, type, depth, 0, 0, reserved);
      expect(events(1, 1, 1)).toBe('EOPNOTSUPP');
      expect(events(0, 0, 1)).toBe('EOPNOTSUPP');
      expect(events(0, 1, 1, 1)).toBe('EOPNOTSUPP');
      expect(events(0, 1, 0)).toBe('EINVAL');
      expect(events(0, 1, 1)).toBe('ENOENT');
      const queue = (flags: number, type: number, base: bigint, length: bigint) =>
        call('IOMMU_HW_QUEUE_ALLOC', flags, id, type, 0, 0, base, length);
      expect(queue(1, 1, 0n, 4096n)).toBe('EOPNOTSUPP');
      expect(queue(0, 0, 0n, 4096n)).toBe('EOPNOTSUPP');
      expect(queue(0, 1, 0n, 0n)).toBe('EINVAL');
      expect(queue(0, 1, U64_MAX, 2n)).toBe('EOVERFLOW');
      expect(queue(0, 1, 0n, 4096n)).toBe('ENOENT');
    });

    test('VFIO_DEVICE_BIND_IOMMUFD', () => {
      const cdev = opened(fixture.device);
      const bound = (flags: number, on: number) => callOn(cdev, 'VFIO_DEVICE_BIND_IOMMUFD', flags, on, 0);
      expect(callOn(cdev, 'VFIO_DEVICE_ATTACH_IOMMUFD_PT', 0, 1)).toBe('EINVAL');
      expect(sized(cdev, 'VFIO_DEVICE_BIND_IOMMUFD', 12, 0, fd, 0)).toBe('EINVAL');
      expect(port.ioctl(cdev, ioctl.VFIO_DEVICE_BIND_IOMMUFD, 0x1000)).toBe(-errno.EFAULT);
      expect(bound(2, fd)).toBe('EINVAL');
      expect(bound(0, 0xffff_ffff)).toBe('EINVAL');
      expect(bound(0, 0x7fff_0000)).toBe('EBADF');
      expect(bound(0, cdev)).toBe('EBADFD');
      expect(bound(0, fd)).toBe(0);
      expect(bound(0, fd)).toBe('EINVAL');
      const again = opened(fixture.device);
      expect(callOn(again, 'VFIO_DEVICE_BIND_IOMMUFD', 0, fd, 0)).toBe('EINVAL');
    });

    test('VFIO_DEVICE_ATTACH_IOMMUFD_PT and DETACH', () => {
      const { cdev, id: device } = bind();
      const first = ioas();
      const second = ioas();
      const to = (id: number, flags = 0) => callOn(cdev, 'VFIO_DEVICE_ATTACH_IOMMUFD_PT', flags, id);
      expect(callOn(cdev, 'VFIO_DEVICE_DETACH_IOMMUFD_PT', 0)).toBe(0);
      expect(sized(cdev, 'VFIO_DEVICE_ATTACH_IOMMUFD_PT', 8, 0, first)).toBe('EINVAL');
      expect(to(first, 2)).toBe('EINVAL');
      expect(to(first, 1)).toBe('EINVAL');
      expect(to(NO_ID)).toBe('ENOENT');
      expect(to(device)).toBe('EINVAL');
      expect(to(first)).toBe(0);
      const automatic = out32(8);
      expect(automatic).not.toBe(first);
      expect(to(first)).toBe(0);
      expect(out32(8)).toBe(automatic);
      expect(to(second)).toBe(0);
      expect(call('IOMMU_DESTROY', automatic)).toBe('ENOENT');
      expect(call('IOMMU_DESTROY', first)).toBe(0);
      expect(callOn(cdev, 'VFIO_DEVICE_DETACH_IOMMUFD_PT', 2)).toBe('EINVAL');
      expect(sized(cdev, 'VFIO_DEVICE_DETACH_IOMMUFD_PT', 4, 0)).toBe('EINVAL');
      expect(callOn(cdev, 'VFIO_DEVICE_DETACH_IOMMUFD_PT', 0)).toBe(0);
      expect(call('IOMMU_DESTROY', second)).toBe(0);
    });
  });
}
