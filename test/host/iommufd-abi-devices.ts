import { expect, test } from 'vitest';
import { errno } from '../../src/host/errno.ts';
import { ioctl } from '../../src/host/iommufd/uapi.ts';
import { type AbiMachine, NO_ID, NOWHERE, U64_MAX } from './abi-machine.ts';

/** The part of iommufd's binary interface that is about page tables, devices and what stands on them. */
export function iommufdDeviceAbi(machine: () => AbiMachine): void {
  test('HWPT_ALLOC', () => {
    const m = machine();
    const { cdev, id: device } = m.bind();
    const id = m.ioas();
    const alloc = (flags: number, dev: number, pt: number, type = 0, length = 0, reserved = 0, faults = 0) =>
      m.call('IOMMU_HWPT_ALLOC', flags, dev, pt, 0, reserved, type, length, m.memory.address, faults, 0);
    expect(alloc(0, device, id, 0, 0, 1)).toBe('EOPNOTSUPP');
    expect(alloc(0, device, id, 0, 8)).toBe('EINVAL');
    expect(alloc(0, device, id, 1, 0)).toBe('EINVAL');
    expect(alloc(0, NO_ID, id)).toBe('ENOENT');
    expect(alloc(0, device, NO_ID)).toBe('EINVAL');
    expect(alloc(0, device, device)).toBe('EINVAL');
    expect(alloc(0x100, device, id)).toBe('EOPNOTSUPP');
    expect(alloc(4, device, id, 0, 0, 0, NO_ID)).toBe(m.fixture.iommu.describes ? 'ENOENT' : 'EOPNOTSUPP');
    expect(alloc(5, device, id)).toBe('EOPNOTSUPP');
    expect(alloc(0, device, id)).toBe(0);
    const hwpt = m.out32(16);
    expect(alloc(0, device, hwpt)).toBe('EOPNOTSUPP');
    expect(m.call('IOMMU_DESTROY', id)).toBe('EBUSY');
    m.attach(cdev, hwpt);
    expect(m.call('IOMMU_DESTROY', hwpt)).toBe('EBUSY');
    expect(m.callOn(cdev, 'VFIO_DEVICE_DETACH_IOMMUFD_PT', 0)).toBe(0);
    expect(m.call('IOMMU_DESTROY', hwpt)).toBe(0);
    expect(m.call('IOMMU_DESTROY', id)).toBe(0);
  });

  test('GET_HW_INFO', () => {
    const m = machine();
    const { id: device } = m.bind();
    const info = (flags: number, dev: number, length: number, pointer: bigint, type = 0, reserved = 0) =>
      m.call('IOMMU_GET_HW_INFO', flags, dev, length, pointer, type, reserved, 0n);
    expect(info(2, device, 0, 0n)).toBe('EOPNOTSUPP');
    expect(info(0, device, 0, 0n, 0, 0x100)).toBe('EOPNOTSUPP');
    expect(info(0, NO_ID, 0, 0n)).toBe('ENOENT');
    expect(info(0, device, 64, NOWHERE)).toBe('EFAULT');
    expect(info(1, device, 0, 0n, 3)).toBe(m.fixture.iommu.describes ? 'EOPNOTSUPP' : 0);
    new Uint8Array(m.memory.buffer).fill(0xff);
    expect(info(0, device, 4096, m.memory.address)).toBe(0);
    expect(m.out32(12)).toBeLessThan(256);
    // PCI_ATS_NOT_SUPPORTED; no PASIDs.
    expect(m.out64(32)).toBe(8n);
    expect(new Uint8Array(m.memory.buffer, 256, 4096 - 256).every((byte) => byte === 0)).toBe(true);
    expect(new Uint8Array(m.memory.buffer)[4096]).toBe(0xff);
    expect(info(0, device, 0, 0n)).toBe(0);
  });

  test('HWPT_SET_DIRTY_TRACKING and HWPT_GET_DIRTY_BITMAP', () => {
    const m = machine();
    const { id: device } = m.bind();
    const id = m.ioas();
    expect(m.map(id, 0x1000n, 0x4000n)).toBe(0);
    expect(m.call('IOMMU_HWPT_ALLOC', 0, device, id, 0, 0, 0, 0, 0n, 0, 0)).toBe(0);
    const hwpt = m.out32(16);
    const bitmap = (on: number, flags: number, iova: bigint, length: bigint, size: bigint, reserved = 0) =>
      m.call('IOMMU_HWPT_GET_DIRTY_BITMAP', on, flags, reserved, iova, length, size, m.memory.address);
    expect(m.call('IOMMU_HWPT_SET_DIRTY_TRACKING', 2, hwpt, 0)).toBe('EOPNOTSUPP');
    expect(m.call('IOMMU_HWPT_SET_DIRTY_TRACKING', 1, NO_ID, 0)).toBe('ENOENT');
    expect(m.call('IOMMU_HWPT_SET_DIRTY_TRACKING', 1, hwpt, 0)).toBe('EOPNOTSUPP');
    expect(bitmap(hwpt, 2, 0x1000n, 0x1000n, 0x1000n)).toBe('EOPNOTSUPP');
    expect(bitmap(hwpt, 0, 0x1000n, 0x1000n, 0x1000n, 1)).toBe('EOPNOTSUPP');
    expect(bitmap(NO_ID, 0, 0x1000n, 0x1000n, 0x1000n)).toBe('ENOENT');
    expect(bitmap(hwpt, 0, U64_MAX - 0xfffn, 0x2000n, 0x1000n)).toBe('EOVERFLOW');
    expect(bitmap(hwpt, 0, 0x1000n, 0n, 0x1000n)).toBe('EINVAL');
    expect(bitmap(hwpt, 0, 0x1800n, 0x1000n, 0x1000n)).toBe('EINVAL');
    expect(bitmap(hwpt, 0, 0x1000n, 0x1000n, 0n)).toBe('EINVAL');
    expect(bitmap(hwpt, 0, 0x1000n, 0x1000n, 0x2000n)).toBe('EINVAL');
    expect(bitmap(hwpt, 0, 0x1000n, 0x1000n, 0x1000n)).toBe('EOPNOTSUPP');
  });

  test('HWPT_INVALIDATE', () => {
    const m = machine();
    const id = m.ioas();
    const invalidate = (on: number, pointer: bigint, length: number, count: number, reserved = 0) =>
      m.call('IOMMU_HWPT_INVALIDATE', on, pointer, 0, length, count, reserved);
    expect(invalidate(id, m.memory.address, 24, 1, 1)).toBe('EOPNOTSUPP');
    expect(m.out32(24)).toBe(0);
    expect(invalidate(id, 0n, 24, 1)).toBe('EINVAL');
    expect(invalidate(id, m.memory.address, 0, 1)).toBe('EINVAL');
    expect(invalidate(NO_ID, m.memory.address, 4097, 1)).toBe('EINVAL');
    expect(invalidate(NO_ID, m.memory.address, 8, 2 ** 19 + 1)).toBe('EINVAL');
    expect(invalidate(NO_ID, m.memory.address, 4096, 2 ** 19)).toBe('ENOENT');
    expect(invalidate(NO_ID, m.memory.address, 24, 1)).toBe('ENOENT');
    expect(invalidate(id, m.memory.address, 24, 1)).toBe('EINVAL');
    expect(m.out32(24)).toBe(0);
  });

  test('FAULT_QUEUE_ALLOC, and reading and writing it', () => {
    const m = machine();
    expect(m.call('IOMMU_FAULT_QUEUE_ALLOC', 1, 0, 0)).toBe('EOPNOTSUPP');
    expect(m.call('IOMMU_FAULT_QUEUE_ALLOC', 0, 0, 0)).toBe(0);
    const [id, queue] = [m.out32(8), m.out32(12)];
    expect(m.port.read(queue, m.memory, 40)).toBe(0);
    expect(m.port.read(queue, m.memory, 39)).toBe(-errno.ESPIPE);
    new Uint8Array(m.memory.buffer).fill(0);
    expect(m.port.write(queue, m.memory, 8)).toBe(-errno.EINVAL);
    expect(m.port.write(queue, m.memory, 7)).toBe(-errno.ESPIPE);
    expect(m.port.poll(queue, 0)).toBe(0);
    expect(m.call('IOMMU_DESTROY', id)).toBe('EBUSY');
    m.port.close(queue);
    expect(m.call('IOMMU_DESTROY', id)).toBe(0);
  });

  test('VIOMMU_ALLOC and what stands on it', () => {
    const m = machine();
    const { id: device } = m.bind();
    const id = m.ioas();
    const viommu = (flags: number, type: number, dev: number) => m.call('IOMMU_VIOMMU_ALLOC', flags, type, dev, id, 0, 0, 0, 0n);
    expect(viommu(1, 1, device)).toBe('EOPNOTSUPP');
    expect(viommu(0, 0, device)).toBe('EOPNOTSUPP');
    expect(viommu(0, 1, NO_ID)).toBe('ENOENT');
    // The IOAS is no page table for it to stand on.
    expect(viommu(0, 1, device)).toBe(m.fixture.iommu.virtual ? 'ENOENT' : 'EOPNOTSUPP');
    expect(m.call('IOMMU_VDEVICE_ALLOC', id, device, 0, 1n)).toBe('ENOENT');
    const events = (flags: number, type: number, depth: number, reserved = 0) =>
      m.call('IOMMU_VEVENTQ_ALLOC', flags, id, type, depth, 0, 0, reserved);
    expect(events(1, 1, 1)).toBe('EOPNOTSUPP');
    expect(events(0, 0, 1)).toBe('EOPNOTSUPP');
    expect(events(0, 1, 1, 1)).toBe('EOPNOTSUPP');
    expect(events(0, 1, 0)).toBe('EINVAL');
    expect(events(0, 1, 1)).toBe('ENOENT');
    const queue = (flags: number, type: number, base: bigint, length: bigint) =>
      m.call('IOMMU_HW_QUEUE_ALLOC', flags, id, type, 0, 0, base, length);
    expect(queue(1, 1, 0n, 4096n)).toBe('EOPNOTSUPP');
    expect(queue(0, 0, 0n, 4096n)).toBe('EOPNOTSUPP');
    expect(queue(0, 1, 0n, 0n)).toBe('EINVAL');
    expect(queue(0, 1, U64_MAX, 2n)).toBe('EOVERFLOW');
    expect(queue(0, 1, 0n, 4096n)).toBe('ENOENT');
  });

  test('VFIO_DEVICE_BIND_IOMMUFD', () => {
    const m = machine();
    const cdev = m.opened(m.fixture.device);
    const bound = (flags: number, on: number) => m.callOn(cdev, 'VFIO_DEVICE_BIND_IOMMUFD', flags, on, 0);
    expect(m.callOn(cdev, 'VFIO_DEVICE_ATTACH_IOMMUFD_PT', 0, 1)).toBe('EINVAL');
    expect(m.sized(cdev, 'VFIO_DEVICE_BIND_IOMMUFD', 12, 0, m.fd, 0)).toBe('EINVAL');
    expect(m.port.ioctl(cdev, ioctl.VFIO_DEVICE_BIND_IOMMUFD, 0x1000)).toBe(-errno.EFAULT);
    expect(bound(2, m.fd)).toBe('EINVAL');
    expect(bound(0, 0xffff_ffff)).toBe('EINVAL');
    expect(bound(0, 0x7fff_0000)).toBe('EBADF');
    expect(bound(0, cdev)).toBe('EBADFD');
    // struct vfio_device_bind_iommufd has 24 bytes; a token is no use to a device that is no virtual function.
    expect(m.sized(cdev, 'VFIO_DEVICE_BIND_IOMMUFD', 32, 0, m.fd, 0, 0n, 1n)).toBe('E2BIG');
    expect(bound(1, m.fd)).toBe('EFAULT');
    expect(m.callOn(cdev, 'VFIO_DEVICE_BIND_IOMMUFD', 1, m.fd, 0, NOWHERE)).toBe('EFAULT');
    expect(m.callOn(cdev, 'VFIO_DEVICE_BIND_IOMMUFD', 1, m.fd, 0, m.memory.address)).toBe('EINVAL');
    expect(bound(0, m.fd)).toBe(0);
    expect(bound(0, m.fd)).toBe('EINVAL');
    const again = m.opened(m.fixture.device);
    expect(m.callOn(again, 'VFIO_DEVICE_BIND_IOMMUFD', 0, m.fd, 0)).toBe('EINVAL');
  });

  test('PASID 0 is attached as none, and detached as itself', () => {
    const m = machine();
    const { cdev } = m.bind();
    const id = m.ioas();
    const WITH_PASID = 1;
    const attach = (flags: number) => m.callOn(cdev, 'VFIO_DEVICE_ATTACH_IOMMUFD_PT', flags, id, 0);
    const detach = (flags: number) => m.callOn(cdev, 'VFIO_DEVICE_DETACH_IOMMUFD_PT', flags, 0);
    expect(attach(WITH_PASID)).toBe(0);
    expect(attach(0)).toBe('EBUSY');
    expect(detach(0)).toBe(0);
    expect(m.call('IOMMU_DESTROY', id)).toBe('EBUSY');
    expect(detach(WITH_PASID)).toBe(0);
    expect(attach(0)).toBe(0);
    expect(attach(0), 'again').toBe(0);
    expect(attach(WITH_PASID)).toBe('EBUSY');
    expect(detach(WITH_PASID)).toBe(0);
    expect(m.call('IOMMU_DESTROY', id)).toBe('EBUSY');
    expect(detach(0)).toBe(0);
    expect(m.call('IOMMU_DESTROY', id)).toBe(0);
  });

  test('VFIO_DEVICE_ATTACH_IOMMUFD_PT and DETACH', () => {
    const m = machine();
    const { cdev, id: device } = m.bind();
    const first = m.ioas();
    const second = m.ioas();
    const to = (id: number, flags = 0) => m.callOn(cdev, 'VFIO_DEVICE_ATTACH_IOMMUFD_PT', flags, id);
    expect(m.callOn(cdev, 'VFIO_DEVICE_DETACH_IOMMUFD_PT', 0)).toBe(0);
    expect(m.sized(cdev, 'VFIO_DEVICE_ATTACH_IOMMUFD_PT', 8, 0, first)).toBe('EINVAL');
    expect(to(first, 2)).toBe('EINVAL');
    expect(to(first, 1)).toBe('EINVAL');
    expect(to(NO_ID)).toBe('ENOENT');
    expect(to(device)).toBe('EINVAL');
    expect(to(first)).toBe(0);
    const automatic = m.out32(8);
    expect(automatic).not.toBe(first);
    expect(to(first)).toBe(0);
    expect(m.out32(8)).toBe(automatic);
    expect(to(second)).toBe(0);
    expect(m.call('IOMMU_DESTROY', automatic)).toBe('ENOENT');
    expect(m.call('IOMMU_DESTROY', first)).toBe(0);
    expect(m.callOn(cdev, 'VFIO_DEVICE_DETACH_IOMMUFD_PT', 2)).toBe('EINVAL');
    expect(m.sized(cdev, 'VFIO_DEVICE_DETACH_IOMMUFD_PT', 4, 0)).toBe('EINVAL');
    expect(m.callOn(cdev, 'VFIO_DEVICE_DETACH_IOMMUFD_PT', 0)).toBe(0);
    expect(m.call('IOMMU_DESTROY', second)).toBe(0);
  });
}
