import { errno } from '../../../src/host/errno.ts';
import type { SimFile } from '../../../src/host/sim/files.ts';
import { handler, type IoctlHandler, type IommufdContext } from '../../../src/host/sim/iommufd/context.ts';
import { DeviceObject, NO_PASID } from '../../../src/host/sim/iommufd/device.ts';
import { Ioas } from '../../../src/host/sim/iommufd/ioas.ts';
import { NestedHwpt, PagingHwpt } from '../../../src/host/sim/iommufd/page-tables.ts';
import { type Command, Struct } from '../../../src/host/sim/structs.ts';
import { AccessFile } from './access-file.ts';
import { type MockBus, MockDevice } from './bus.ts';
import { MOCK_FORMAT, MockStage } from './nesting.ts';
import { IOMMU_TEST_CMD } from './types.ts';

/** IOMMU_TEST_CMD (drivers/iommu/iommufd/selftest.c), as far as what it does can be seen from outside; operations by their numbers in iommufd_test.h. */

/** struct iommu_test_cmd: the union as words, whose meaning is the operation's. */
const testStruct = new Struct({
  size: 'u32',
  op: 'u32',
  id: 'u32',
  reserved: 'u32',
  w0: 'u32',
  w1: 'u32',
  w2: 'u32',
  w3: 'u32',
  w4: 'u32',
  w5: 'u32',
  w6: 'u32',
  w7: 'u32',
  w8: 'u32',
  w9: 'u32',
  w10: 'u32',
  w11: 'u32',
  last: 'u32',
  tail: 'u32',
});
type TestCommand = Command<typeof testStruct.fields>;
type Operation = (context: IommufdContext, command: TestCommand) => number;

/** The 64-bit field that begins with a word. */
function wide(lo: number, hi: number): bigint {
  return (BigInt(hi) << 32n) | BigInt(lo);
}

const OPERAND_MAX = 16n << 20n;
const U64_MAX = (1n << 64n) - 1n;
const ACCESS_WRITE = 1;
const RW_FLAGS = 1 | 4;

function mockDevice(context: IommufdContext, id: number): MockDevice | undefined {
  return context.get(id, MockDevice);
}

function addReserved(context: IommufdContext, { in: { id, w0, w1, w2, w3 } }: TestCommand): number {
  const [start, length] = [wide(w0, w1), wide(w2, w3)];
  if (length === 0n) return -errno.EINVAL;
  if (start + length - 1n > U64_MAX) return -errno.EOVERFLOW;
  const ioas = context.get(id, Ioas);
  return ioas === undefined ? -errno.ENOENT : ioas.table.ranges.reserve({ first: start, last: start + length - 1n }, {});
}

/** MOCK_DOMAIN and MOCK_DOMAIN_FLAGS: the object that stands for the device has its ID first, then the device, then its table. */
function mockDomain(bus: MockBus, context: IommufdContext, command: TestCommand, flags: number): number {
  const sim = bus.create(flags);
  if (typeof sim === 'number') return sim;
  const mock = context.reserve(new MockDevice(sim));
  const bound = context.add(new DeviceObject(context, sim));
  bound.users++;
  mock.bound = bound;
  const table = mock.noted(bound.attach(command.in.id, NO_PASID));
  const failed = table < 0 ? table : command.respond({ w0: mock.id, w1: table, w2: bound.id });
  if (failed < 0) {
    mock.destroy();
    context.discard(mock.id);
    return failed;
  }
  context.publish(mock);
  return 0;
}

function mockReplace(context: IommufdContext, command: TestCommand): number {
  const mock = mockDevice(context, command.in.id);
  if (mock === undefined) return -errno.ENOENT;
  const table = mock.noted((mock.bound as DeviceObject).replace(command.in.w0, NO_PASID));
  return table < 0 ? table : command.respond({ w0: table });
}

/** Whether each page of a table leads to where the process sees it. */
function checkMap(context: IommufdContext, { in: { id, w0, w1, w2, w3, w4, w5 } }: TestCommand): number {
  const [iova, length, address] = [wide(w0, w1), wide(w2, w3), wide(w4, w5)];
  const hwpt = context.get(id, PagingHwpt);
  if (hwpt === undefined) return -errno.ENOENT;
  if (hwpt.domain.iommu.config.pageSizes !== MOCK_FORMAT.pageSizes) return -errno.EINVAL;
  const { pageSizes } = hwpt.domain.format;
  const page = pageSizes & -pageSizes;
  if (iova % page !== 0n || length % page !== 0n || address % page !== 0n || address + length > U64_MAX) return -errno.EINVAL;
  const { process } = context.kernel;
  for (let done = 0n; done < length; done += page) {
    const vma = process.pagesAt(address + done, page);
    if (typeof vma === 'number') return vma;
    const physical = vma.frames.first + vma.offset + Number(address + done) - vma.first;
    if (hwpt.domain.physicalOf(iova + done) !== physical) return -errno.EINVAL;
  }
  return 0;
}

function checkIotlb(context: IommufdContext, { in: { id, w0, w1 } }: TestCommand): number {
  const hwpt = context.get(id, NestedHwpt);
  if (hwpt === undefined) return -errno.ENOENT;
  return hwpt.domain instanceof MockStage && hwpt.domain.iotlb.holds(w0, w1) ? 0 : -errno.EINVAL;
}

function checkCache(bus: MockBus, context: IommufdContext, { in: { id, w0, w1 } }: TestCommand): number {
  const device = context.get(id, DeviceObject);
  if (device === undefined) return -errno.ENOENT;
  return bus.cacheOf(device.device).holds(w0, w1) ? 0 : -errno.EINVAL;
}

function createAccess(context: IommufdContext, command: TestCommand): number {
  const { id, w1 } = command.in;
  if ((w1 & ~1) !== 0) return -errno.EOPNOTSUPP;
  const file = new AccessFile(context, w1 === 1);
  const failed = file.access.attach(context.get(id, Ioas));
  if (failed < 0) {
    file.abandon();
    return failed;
  }
  const fd = context.kernel.install(file);
  const told = command.respond({ w0: fd });
  if (told < 0) context.kernel.uninstall(fd);
  return told;
}

function accessFile(context: IommufdContext, fd: number): AccessFile | number {
  const file: SimFile | undefined = context.kernel.file(fd);
  return file instanceof AccessFile ? file : -errno.EBADFD;
}

function accessPages(context: IommufdContext, command: TestCommand): number {
  const { id, w0: flags, w2, w3, w4, w5, w6, w7 } = command.in;
  const [iova, length, address] = [wide(w2, w3), wide(w4, w5), wide(w6, w7)];
  if (length > OPERAND_MAX) return -errno.ENOMEM;
  if ((flags & ~ACCESS_WRITE) !== 0) return -errno.EOPNOTSUPP;
  const file = accessFile(context, id);
  if (typeof file === 'number') return file;
  const item = file.pin(iova, length, (flags & ACCESS_WRITE) !== 0, address);
  if (item < 0) return item;
  const told = command.respond({ w1: item });
  if (told < 0) file.release(item);
  return told;
}

function accessCopy(context: IommufdContext, { in: { id, w0, w1, w2, w3, w4, w5, w6: flags } }: TestCommand): number {
  const [iova, length, address] = [wide(w0, w1), wide(w2, w3), wide(w4, w5)];
  if (length > OPERAND_MAX) return -errno.ENOMEM;
  if ((flags & ~RW_FLAGS) !== 0) return -errno.EOPNOTSUPP;
  const file = accessFile(context, id);
  if (typeof file === 'number') return file;
  const write = (flags & ACCESS_WRITE) !== 0;
  const { process } = context.kernel;
  const user = write ? process.view(address, Number(length)) : null;
  if (user === null && write) return -errno.EFAULT;
  const buffer = user?.slice() ?? new Uint8Array(Number(length));
  const failed = file.access.copy(iova, buffer, write);
  if (failed < 0 || write) return failed;
  return process.copyOut(address, buffer) ? 0 : -errno.EFAULT;
}

function releasePages(context: IommufdContext, { in: { id, w0 } }: TestCommand): number {
  const file = accessFile(context, id);
  return typeof file === 'number' ? file : file.release(w0);
}

function replaceIoas(context: IommufdContext, { in: { id, w0 } }: TestCommand): number {
  const file = accessFile(context, id);
  return typeof file === 'number' ? file : file.access.attach(context.get(w0, Ioas));
}

/** The hardware dirties what the user's bitmap says. */
function dirty(context: IommufdContext, command: TestCommand): number {
  const { id, w2, w3, w4, w5, w6, w7, w8, w9 } = command.in;
  const [iova, length, pageSize, address] = [wide(w2, w3), wide(w4, w5), wide(w6, w7), wide(w8, w9)];
  if (pageSize === 0n || length === 0n || iova % pageSize !== 0n || length % pageSize !== 0n || address === 0n) return -errno.EINVAL;
  const count = length / pageSize;
  if (count > OPERAND_MAX * 8n) return -errno.EOVERFLOW;
  const hwpt = context.get(id, PagingHwpt);
  if (hwpt === undefined) return -errno.ENOENT;
  if (!hwpt.domain.tracking) return -errno.EINVAL;
  const bitmap = context.kernel.process.view(address, Math.ceil(Number(count) / 8));
  if (bitmap === null) return -errno.EFAULT;
  let done = 0;
  for (let bit = 0; bit < Number(count); bit++) {
    if ((bitmap[bit >> 3] & (1 << (bit & 7))) === 0) continue;
    done++;
    hwpt.domain.dirtied(Number((iova + BigInt(bit) * pageSize) / BigInt(hwpt.domain.granule)));
  }
  return command.respond({ w10: done, w11: 0 });
}

function triggerFault(context: IommufdContext, { in: { w0, w1, w2, w3, w4, w5 } }: TestCommand): number {
  const device = context.get(w0, DeviceObject);
  if (device === undefined) return -errno.ENOENT;
  const mock = context.list(MockDevice).find(({ bound }) => bound === device);
  if (mock === undefined) return -errno.EINVAL;
  mock.request(w1, w2, w3, wide(w4, w5));
  return 0;
}

function triggerEvent(context: IommufdContext, { in: { w0 } }: TestCommand): number {
  const device = context.get(w0, DeviceObject);
  if (device === undefined) return -errno.ENOENT;
  return (
    context
      .list(MockDevice)
      .find(({ bound }) => bound === device)
      ?.event() ?? -errno.ENOENT
  );
}

/** PASID 0 is none. */
const pasidOf = (pasid: number) => (pasid === 0 ? NO_PASID : pasid);

function pasidChange(how: 'attach' | 'replace', context: IommufdContext, command: TestCommand): number {
  const { id, w0, w1 } = command.in;
  const mock = mockDevice(context, id);
  if (mock === undefined) return -errno.ENOENT;
  const table = mock.noted((mock.bound as DeviceObject)[how](w1, pasidOf(w0)));
  if (table < 0) return table;
  const told = command.respond({ w1: table });
  if (told < 0 && how === 'attach') {
    mock.bound?.detach(pasidOf(w0));
    mock.noted(0);
  }
  return told;
}

function pasidDetach(context: IommufdContext, { in: { id, w0 } }: TestCommand): number {
  const mock = mockDevice(context, id);
  if (mock === undefined) return -errno.ENOENT;
  mock.bound?.detach(pasidOf(w0));
  mock.noted(0);
  return 0;
}

function pasidCheck(context: IommufdContext, { in: { id, w0, w1 } }: TestCommand): number {
  const mock = mockDevice(context, id);
  if (mock === undefined) return -errno.ENOENT;
  const attached = (w0 === 0 ? mock.sim.translation : mock.sim.pasids.get(w0)) ?? null;
  if (w1 === 0) return attached === null ? 0 : -errno.EINVAL;
  const hwpt = context.any(w1);
  if (hwpt === undefined) return -errno.ENOENT;
  if (!(hwpt instanceof PagingHwpt || hwpt instanceof NestedHwpt)) return -errno.EINVAL;
  return attached === hwpt ? 0 : -errno.EINVAL;
}

export function testCommand(bus: MockBus): IoctlHandler {
  const operations = new Map<number, Operation>([
    [1, addReserved],
    [2, (context, command) => mockDomain(bus, context, command, 0)],
    [3, checkMap],
    [5, createAccess],
    [6, releasePages],
    [7, accessPages],
    [8, accessCopy],
    [10, mockReplace],
    [11, replaceIoas],
    [12, (context, command) => mockDomain(bus, context, command, command.in.w3)],
    [13, dirty],
    [14, checkIotlb],
    [15, triggerFault],
    [16, (context, command) => checkCache(bus, context, command)],
    [17, triggerEvent],
    [18, (context, command) => pasidChange('attach', context, command)],
    [19, (context, command) => pasidChange('replace', context, command)],
    [20, pasidDetach],
    [21, pasidCheck],
  ]);
  return handler(IOMMU_TEST_CMD, testStruct, 'last', (context, command) => {
    const operation = operations.get(command.in.op);
    return operation === undefined ? -errno.EOPNOTSUPP : operation(context, command);
  });
}
