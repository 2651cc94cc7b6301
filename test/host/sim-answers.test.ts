import { beforeEach, expect, test } from 'vitest';
import { errno } from '../../src/host/errno.ts';
import { ioctl } from '../../src/host/iommufd/uapi.ts';
import type { PortMemory } from '../../src/host/port.ts';
import { type SimKernel, vtd } from '../../src/host/sim/index.ts';
import { simKernelWithMock } from './mock/index.ts';
import { IOMMU_TEST_CMD, SELFTEST } from './mock/types.ts';

/* What becomes of a call that could be carried out in part only, and of what is gone: each as Linux 7.3 has it (drivers/iommu/iommufd). */

type Field = number | bigint;

const PAGE = 4096;
const RW = 7;
const NEST_PARENT = 1;
const FOR_PASID = 8;
const BASE = BigInt(SELFTEST.base);
const TEST_BYTES = 72;
const OP = {
  checkPasid: 21,
  accessPages: 7,
  copy: 8,
  createAccess: 5,
  dirty: 13,
  mockDomainFlags: 12,
  pasidAttach: 18,
  releasePages: 6,
  replace: 10,
  replaceIoas: 11,
};

let kernel: SimKernel;
let fd: number;
let writable: PortMemory;
let readOnly: PortMemory;

beforeEach(() => {
  kernel = simKernelWithMock({ iommus: [{ nesting: vtd() }], devices: [{ name: 'vfio0' }] });
  fd = kernel.open('/dev/iommu');
  writable = kernel.allocate(PAGE);
  readOnly = kernel.allocate(PAGE, { writable: false });
});

/** The fields behind the struct's size. */
function fill(memory: PortMemory, fields: readonly Field[], bytes?: number): void {
  const view = new DataView(memory.buffer);
  new Uint8Array(memory.buffer).fill(0);
  let at = 4;
  for (const field of fields) {
    if (typeof field === 'bigint') view.setBigUint64(at, field, true);
    else view.setUint32(at, field, true);
    at += typeof field === 'bigint' ? 8 : 4;
  }
  view.setUint32(0, bytes ?? at, true);
}

function call(on: number, request: number, fields: readonly Field[], memory = writable, bytes?: number): number {
  fill(memory, fields, bytes);
  return kernel.ioctl(on, request, memory);
}

const out = (offset: number) => new DataView(writable.buffer).getUint32(offset, true);

const testCall = (op: number, id: number, fields: readonly Field[], memory = writable) =>
  call(fd, IOMMU_TEST_CMD, [op, id, 0, ...fields], memory, TEST_BYTES);

function make(request: keyof typeof ioctl, idAt: number, fields: readonly Field[]): number {
  expect(call(fd, ioctl[request], fields), request).toBe(0);
  return out(idAt);
}

/** A mock device on an IOAS, and what stands on both. */
function objects() {
  const ioas = make('IOMMU_IOAS_ALLOC', 8, [0, 0]);
  const memory = kernel.allocate(PAGE);
  expect(call(fd, ioctl.IOMMU_IOAS_MAP, [RW, ioas, 0, memory.address, BigInt(PAGE), BASE])).toBe(0);
  expect(testCall(OP.mockDomainFlags, ioas, [0, 0, 0, 4])).toBe(0);
  const [mock, device] = [out(16), out(24)];
  const nesting = make('IOMMU_HWPT_ALLOC', 16, [NEST_PARENT, device, ioas, 0, 0, 0, 0, 0n]);
  const viommu = make('IOMMU_VIOMMU_ALLOC', 20, [0, SELFTEST.viommu, device, nesting, 0, 0, 0, 0n]);
  return { ioas, mock, device, nesting, viommu };
}

test('an object is not made, and its ID and descriptor are free', () => {
  const { ioas, device, nesting, viommu } = objects();
  const calls: readonly [keyof typeof ioctl, readonly Field[]][] = [
    ['IOMMU_IOAS_ALLOC', [0, 0]],
    ['IOMMU_HWPT_ALLOC', [0, device, ioas, 0, 0, 0, 0, 0n]],
    ['IOMMU_VIOMMU_ALLOC', [0, SELFTEST.viommu, device, nesting, 0, 0, 0, 0n]],
    ['IOMMU_VDEVICE_ALLOC', [viommu, device, 0, 7n]],
    ['IOMMU_FAULT_QUEUE_ALLOC', [0, 0, 0]],
    ['IOMMU_VEVENTQ_ALLOC', [0, viommu, SELFTEST.veventq, 3, 0, 0, 0]],
    ['IOMMU_HW_QUEUE_ALLOC', [0, viommu, SELFTEST.hwQueue, 0, 0, BASE, 64n]],
  ];
  const before = kernel.save();
  for (const [request, fields] of calls) {
    expect(call(fd, ioctl[request], fields, readOnly), request).toBe(-errno.EFAULT);
    expect(kernel.save(), request).toEqual(before);
  }
  for (const [request, fields] of calls) expect(call(fd, ioctl[request], fields), request).toBe(0);
});

test('what was done to a space is done', () => {
  const ioas = make('IOMMU_IOAS_ALLOC', 8, [0, 0]);
  const map: readonly Field[] = [RW, ioas, 0, writable.address, BigInt(PAGE), BASE];
  expect(call(fd, ioctl.IOMMU_IOAS_MAP, map, readOnly)).toBe(-errno.EFAULT);
  expect(call(fd, ioctl.IOMMU_IOAS_MAP, map)).toBe(-errno.EEXIST);
  const unmap: readonly Field[] = [ioas, BASE, BigInt(PAGE)];
  expect(call(fd, ioctl.IOMMU_IOAS_UNMAP, unmap, readOnly)).toBe(-errno.EFAULT);
  expect(call(fd, ioctl.IOMMU_IOAS_UNMAP, unmap)).toBe(-errno.ENOENT);
});

test('a device that cannot be told where it is attached is detached from all but a PASID', () => {
  const ioas = make('IOMMU_IOAS_ALLOC', 8, [0, 0]);
  const cdev = kernel.open('/dev/vfio/devices/vfio0');
  expect(call(cdev, ioctl.VFIO_DEVICE_BIND_IOMMUFD, [0, fd, 0], readOnly)).toBe(-errno.EFAULT);
  expect(kernel.live()).toMatchObject({ groupsOwned: 0, boundDevices: 0 });
  expect(call(cdev, ioctl.VFIO_DEVICE_BIND_IOMMUFD, [0, fd, 0])).toBe(0);
  expect(call(cdev, ioctl.VFIO_DEVICE_ATTACH_IOMMUFD_PT, [0, ioas], readOnly)).toBe(-errno.EFAULT);
  expect(kernel.device().translation).toBe(null);
  expect(kernel.live()).toMatchObject({ domains: 0 });
});

test('the selftests’ calls: a PASID is detached, pages are let go, an access is not made', () => {
  const { ioas, mock, device } = objects();
  const [plain, one] = [0, 1].map(() => make('IOMMU_HWPT_ALLOC', 16, [FOR_PASID, device, ioas, 0, 0, 0, 0, 0n]));
  expect(testCall(OP.replace, mock, [plain], readOnly)).toBe(-errno.EFAULT);
  expect(testCall(OP.checkPasid, mock, [0, plain]), 'replaced').toBe(0);
  expect(testCall(OP.pasidAttach, mock, [100, one], readOnly)).toBe(-errno.EFAULT);
  expect(testCall(OP.checkPasid, mock, [100, 0]), 'detached').toBe(0);
  const before = kernel.save();
  expect(testCall(OP.createAccess, ioas, [0, 1], readOnly)).toBe(-errno.EFAULT);
  expect(kernel.save()).toEqual(before);
  expect(testCall(OP.createAccess, ioas, [0, 1])).toBe(0);
  const access = out(16);
  expect(testCall(OP.accessPages, access, [0, 0, BASE, BigInt(PAGE), 0n], readOnly)).toBe(-errno.EFAULT);
  expect(testCall(OP.releasePages, access, [0])).toBe(-errno.ENOENT);
  expect(testCall(OP.accessPages, access, [0, 0, BASE, BigInt(PAGE), 0n])).toBe(0);
});

test('of a struct that ends where memory does, what lies behind is EFAULT to who wants it, and nothing to others', () => {
  const ioas = make('IOMMU_IOAS_ALLOC', 8, [0, 0]);
  const cdev = kernel.open('/dev/vfio/devices/vfio0');
  expect(call(cdev, ioctl.VFIO_DEVICE_BIND_IOMMUFD, [0, fd, 0])).toBe(0);
  /** A struct that says that it is longer by four bytes than there is memory. */
  const atEnd = (on: number, request: number, ...fields: readonly Field[]) => {
    fill(writable, fields);
    const bytes = out(0);
    const view = new Uint8Array(writable.buffer);
    view.copyWithin(PAGE - bytes, 0, bytes);
    new DataView(writable.buffer).setUint32(PAGE - bytes, bytes + 4, true);
    return kernel.ioctl(on, request, Number(writable.address) + PAGE - bytes);
  };
  expect(atEnd(cdev, ioctl.VFIO_DEVICE_ATTACH_IOMMUFD_PT, 1, ioas)).toBe(-errno.EFAULT);
  expect(atEnd(cdev, ioctl.VFIO_DEVICE_ATTACH_IOMMUFD_PT, 0, ioas)).toBe(0);
  expect(atEnd(cdev, ioctl.VFIO_DEVICE_DETACH_IOMMUFD_PT, 1)).toBe(-errno.EFAULT);
  expect(kernel.device().translation).not.toBe(null);
  expect(atEnd(cdev, ioctl.VFIO_DEVICE_DETACH_IOMMUFD_PT, 0)).toBe(0);
  expect(kernel.device().translation).toBe(null);
});

test('what the hardware wrote is lost where the bitmap cannot be written (lock step, 10000694)', () => {
  const { mock, device, ioas } = objects();
  const table = make('IOMMU_HWPT_ALLOC', 16, [2, device, ioas, 0, 0, 0, 0, 0n]);
  expect(testCall(OP.replace, mock, [table])).toBe(0);
  expect(call(fd, ioctl.IOMMU_HWPT_SET_DIRTY_TRACKING, [1, table, 0])).toBe(0);
  const bits = kernel.allocate(PAGE);
  const read = (at: bigint) => call(fd, ioctl.IOMMU_HWPT_GET_DIRTY_BITMAP, [table, 0, 0, BASE, BigInt(PAGE), BigInt(PAGE), at]);
  new Uint8Array(bits.buffer)[0] = 1;
  const dirty = () => expect(testCall(OP.dirty, table, [0, 0, BASE, BigInt(PAGE), BigInt(PAGE), bits.address])).toBe(0);
  dirty();
  new Uint8Array(bits.buffer)[0] = 0;
  expect(read(readOnly.address)).toBe(0);
  expect(read(bits.address)).toBe(0);
  expect(new Uint8Array(bits.buffer)[0], 'told before').toBe(0);
});

test('what is pinned is copied from, though its process is gone (lock step, 10001712)', () => {
  const { ioas } = objects();
  expect(testCall(OP.createAccess, ioas, [0, 0])).toBe(0);
  const access = out(16);
  const second = make('IOMMU_IOAS_ALLOC', 8, [0, 0]);
  const child = kernel.fork();
  kernel.as(child, () => {
    const memory = kernel.allocate(PAGE);
    new Uint8Array(memory.buffer)[5] = 7;
    for (const space of [ioas, second]) {
      const struct = kernel.allocate(PAGE);
      fill(struct, [RW, space, 0, memory.address, BigInt(PAGE), BASE + BigInt(PAGE)]);
      expect(kernel.ioctl(fd, ioctl.IOMMU_IOAS_MAP, struct)).toBe(0);
    }
  });
  kernel.exit(child);
  const answer = kernel.allocate(PAGE);
  const copy = () => testCall(OP.copy, access, [BASE + BigInt(PAGE) + 5n, 1n, answer.address, 0]);
  expect(copy()).toBe(0);
  expect(new Uint8Array(answer.buffer)[0]).toBe(7);
  expect(testCall(OP.replaceIoas, access, [second])).toBe(0);
  expect(copy(), 'nobody has pinned it there').toBe(-errno.EFAULT);
});

test('the ID of a vDEVICE that went with its device is taken for ever, and so the accounting cannot be chosen any more', () => {
  const { ioas, mock, device, nesting, viommu } = objects();
  const virtual = make('IOMMU_VDEVICE_ALLOC', 12, [viommu, device, 0, 7n]);
  for (const id of [mock, viommu, nesting, ioas]) expect(call(fd, ioctl.IOMMU_DESTROY, [id])).toBe(0);
  expect(call(fd, ioctl.IOMMU_DESTROY, [virtual])).toBe(-errno.ENOENT);
  const option = () => call(fd, ioctl.IOMMU_OPTION, [0, 0, 0, 1n]);
  expect(option()).toBe(-errno.EBUSY);
  const ids = Array.from({ length: virtual }, () => make('IOMMU_IOAS_ALLOC', 8, [0, 0]));
  expect(ids).not.toContain(virtual);
});

test('a move to another table of the same space that is refused takes what the device reserves out of the space (iommufd_device_do_replace)', () => {
  const ioas = make('IOMMU_IOAS_ALLOC', 8, [0, 0]);
  const cdev = kernel.open('/dev/vfio/devices/vfio0');
  expect(call(cdev, ioctl.VFIO_DEVICE_BIND_IOMMUFD, [0, fd, 0])).toBe(0);
  const device = out(12);
  const ranges = () => make('IOMMU_IOAS_IOVA_RANGES', 8, [ioas, 8, 0, kernel.allocate(PAGE).address, 0n]);
  expect(call(cdev, ioctl.VFIO_DEVICE_ATTACH_IOMMUFD_PT, [0, ioas])).toBe(0);
  const reserved = ranges();
  // The device can ask for no pages.
  const faults = make('IOMMU_FAULT_QUEUE_ALLOC', 8, [0, 0, 0]);
  const table = make('IOMMU_HWPT_ALLOC', 16, [4, device, ioas, 0, 0, 0, 0, 0n, faults, 0]);
  expect(call(cdev, ioctl.VFIO_DEVICE_ATTACH_IOMMUFD_PT, [0, table])).toBe(-errno.ENODEV);
  expect(ranges()).toBe(reserved - 1);
});

test('a table that VT-d’s driver refuses leaves the device blocked, and asked for the old one the kernel does nothing (intel_iommu_attach_device)', () => {
  const ioas = make('IOMMU_IOAS_ALLOC', 8, [0, 0]);
  const memory = kernel.allocate(PAGE);
  expect(call(fd, ioctl.IOMMU_IOAS_MAP, [RW, ioas, 0, memory.address, BigInt(PAGE), BASE])).toBe(0);
  const cdev = kernel.open('/dev/vfio/devices/vfio0');
  expect(call(cdev, ioctl.VFIO_DEVICE_BIND_IOMMUFD, [0, fd, 0])).toBe(0);
  const device = out(12);
  const faults = make('IOMMU_FAULT_QUEUE_ALLOC', 8, [0, 0, 0]);
  const table = make('IOMMU_HWPT_ALLOC', 16, [4, device, ioas, 0, 0, 0, 0, 0n, faults, 0]);
  const attach = (id: number) => call(cdev, ioctl.VFIO_DEVICE_ATTACH_IOMMUFD_PT, [0, id]);
  const isReached = () => kernel.device('vfio0').dmaWrite(BASE, Uint8Array.of(1)) === 0;
  expect([attach(ioas), isReached()]).toEqual([0, true]);
  expect([attach(table), isReached()]).toEqual([-errno.ENODEV, false]);
  expect([attach(ioas), isReached()]).toEqual([0, false]);
  expect(call(cdev, ioctl.VFIO_DEVICE_DETACH_IOMMUFD_PT, [0])).toBe(0);
  expect([attach(ioas), isReached()]).toEqual([0, true]);
});
