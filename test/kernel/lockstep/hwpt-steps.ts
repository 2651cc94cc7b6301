import { ioctl } from '../../../src/host/iommufd/uapi.ts';
import { SELFTEST } from '../../host/mock/types.ts';
import type { Builder, Kind } from './builder.ts';
import { buffer, iova, isFile, length } from './ioas-steps.ts';
import { isDevice } from './vfio-steps.ts';

/** Page tables, vIOMMUs, their devices and queues. */

const NEST_PARENT = 1;
const DIRTY = 2;
const FAULT_ID = 4;
const PASID = 8;
/** Of four-byte structs of the mock's, behind the struct of the call. */
const DATA = 0x400n;

function data(builder: Builder, words: readonly number[]) {
  return { address: builder.control + DATA, bytes: new Uint8Array(Uint32Array.from(words).buffer) };
}

function allocPaging(builder: Builder, fd: number): void {
  const { random } = builder;
  const flags = random.chance(10)
    ? builder.flags(15)
    : random.pick([0, NEST_PARENT, NEST_PARENT, DIRTY, DIRTY, PASID, FAULT_ID, NEST_PARENT | PASID]);
  const own = random.chance(15);
  const type = own ? (random.chance(90) ? SELFTEST.hwptData : 1) : 0;
  const bytes = own ? random.pick([8, 8, 4, 12, 0]) : random.chance(2) ? 8 : 0;
  const poke = data(builder, [5, random.pick([0, 0, 1, 2]), 0]);
  const fields = [
    flags,
    builder.id('device'),
    builder.id('ioas'),
    0,
    builder.flags(0),
    type,
    bytes,
    buffer(builder, DATA),
    builder.id('fault'),
    0,
  ];
  const { result, words } = builder.ioctl('HWPT_ALLOC', fd, ioctl.IOMMU_HWPT_ALLOC, fields, [poke]);
  if (result === 0) builder.know((flags & NEST_PARENT) !== 0 ? 'nesting' : 'paging', words[4]);
}

function allocNested(builder: Builder, fd: number): void {
  const { random } = builder;
  const flags = random.chance(70) ? 0 : builder.flags(FAULT_ID | PASID, 50);
  const type = random.chance(95) ? SELFTEST.hwptData : random.below(3);
  const bytes = random.pick([8, 8, 8, 4, 2, 12, 0]);
  const poke = data(builder, [random.below(4), random.below(2), 0]);
  const parent = builder.id('nesting', 'viommu', 'viommu');
  const fields = [flags, builder.id('device'), parent, 0, builder.flags(0), type, bytes, buffer(builder, DATA), builder.id('fault'), 0];
  const { result, words } = builder.ioctl('HWPT_ALLOC nested', fd, ioctl.IOMMU_HWPT_ALLOC, fields, [poke]);
  if (result === 0) builder.know('nested', words[4]);
}

function hwInfo(builder: Builder, fd: number): void {
  const { random } = builder;
  const type = random.chance(20) ? random.pick([SELFTEST.hwInfo, 1, 2]) : 0;
  const fields = [
    random.chance(20) ? 1 : builder.flags(0),
    builder.id('device'),
    random.pick([0, 4, 8, 12, 32]),
    buffer(builder),
    type,
    0,
    0n,
  ];
  builder.ioctl('GET_HW_INFO', fd, ioctl.IOMMU_GET_HW_INFO, fields);
}

function setTracking(builder: Builder, fd: number): void {
  builder.ioctl('SET_DIRTY_TRACKING', fd, ioctl.IOMMU_HWPT_SET_DIRTY_TRACKING, [
    builder.random.chance(80) ? 1 : builder.flags(1),
    builder.id('paging'),
    0,
  ]);
}

function getBitmap(builder: Builder, fd: number): void {
  const { random } = builder;
  const page = random.pick([2048n, 4096n, 4096n, 0n, 1024n]);
  const fields = [builder.id('paging'), builder.flags(1), builder.flags(0), iova(builder), length(builder) * 4n, page, buffer(builder)];
  builder.ioctl('GET_DIRTY_BITMAP', fd, ioctl.IOMMU_HWPT_GET_DIRTY_BITMAP, fields);
}

function invalidate(builder: Builder, fd: number): void {
  const { random } = builder;
  const onViommu = random.chance(50);
  const count = random.pick([0, 1, 1, 2, 3, 4]);
  const bytes = random.chance(85) ? (onViommu ? 12 : 8) : random.pick([0, 4, 8, 12, 16, 4097]);
  const entries: number[] = [];
  for (let index = 0; index < count; index++) {
    const flags = random.chance(10) ? random.below(3) : 0;
    const which = random.chance(8) ? 4 : random.below(4);
    entries.push(flags, ...(onViommu ? [random.chance(15) ? 7 : random.below(4)] : []), which);
  }
  const type = random.chance(95) ? SELFTEST.hwptInvalidate : random.below(3);
  const fields = [
    builder.id(onViommu ? 'viommu' : 'nested'),
    buffer(builder, DATA),
    type,
    bytes,
    random.chance(1) ? 2 ** 19 + 1 : count,
    builder.flags(0),
  ];
  builder.ioctl('HWPT_INVALIDATE', fd, ioctl.IOMMU_HWPT_INVALIDATE, fields, [data(builder, [...entries, 0, 0, 0, 0])]);
}

function allocViommu(builder: Builder, fd: number): void {
  const { random } = builder;
  const type = random.chance(92) ? SELFTEST.viommu : random.below(4);
  const bytes = random.pick([0, 0, 24, 24, 8, 4]);
  const fields = [builder.flags(0), type, builder.id('device'), builder.id('nesting'), 0, bytes, 0, buffer(builder, DATA)];
  const { result, words } = builder.ioctl('VIOMMU_ALLOC', fd, ioctl.IOMMU_VIOMMU_ALLOC, fields, [
    data(builder, [random.below(99), 0, 0, 0, 0, 0]),
  ]);
  if (result === 0) builder.know('viommu', words[5]);
}

function allocVdevice(builder: Builder, fd: number): void {
  const fields = [builder.id('viommu'), builder.id('device'), 0, BigInt(builder.random.below(4))];
  const { result, words } = builder.ioctl('VDEVICE_ALLOC', fd, ioctl.IOMMU_VDEVICE_ALLOC, fields);
  if (result === 0) builder.know('vdevice', words[3]);
}

/** Descriptors of queues, to read from. */
const queues = new WeakMap<Builder, number[]>();

function keep(builder: Builder, fd: number): void {
  queues.set(builder, [...(queues.get(builder) ?? []), fd]);
}

function allocFault(builder: Builder, fd: number): void {
  const { result, words } = builder.ioctl('FAULT_QUEUE_ALLOC', fd, ioctl.IOMMU_FAULT_QUEUE_ALLOC, [builder.flags(0), 0, 0]);
  if (result !== 0) return;
  builder.know('fault', words[2]);
  keep(builder, words[3]);
}

function allocVeventq(builder: Builder, fd: number): void {
  const { random } = builder;
  const type = random.chance(90) ? SELFTEST.veventq : random.below(3);
  const fields = [builder.flags(0), builder.id('viommu'), type, random.pick([0, 1, 2, 3, 3]), 0, 0, builder.flags(0)];
  const { result, words } = builder.ioctl('VEVENTQ_ALLOC', fd, ioctl.IOMMU_VEVENTQ_ALLOC, fields);
  if (result !== 0) return;
  builder.know('veventq', words[5]);
  keep(builder, words[6]);
}

function allocQueue(builder: Builder, fd: number): void {
  const { random } = builder;
  const type = random.chance(92) ? SELFTEST.hwQueue : random.below(3);
  // Within a page: whether two pages of the process follow on each other is nobody's business.
  const at = iova(builder);
  const fields = [builder.flags(0), builder.id('viommu'), type, random.below(4), 0, at, random.pick([0n, 64n, 2048n, 4096n])];
  if (random.chance(3)) fields[6] = random.pick([1n << 42n, (1n << 64n) - 1n, (1n << 64n) - 4096n]);
  if (fields[6] === 4096n && at % 4096n !== 0n) fields[6] = 64n;
  const { result, words } = builder.ioctl('HW_QUEUE_ALLOC', fd, ioctl.IOMMU_HW_QUEUE_ALLOC, fields);
  if (result === 0) builder.know('queue', words[5]);
}

function readQueue(builder: Builder): void {
  const { random } = builder;
  const fds = queues.get(builder) ?? [];
  if (fds.length === 0) return;
  const fd = random.pick(fds);
  if (isFile(builder, fd) || isDevice(builder, fd)) return;
  if (random.chance(30)) builder.play({ operation: 'poll', name: 'poll', fd });
  const bytes = random.pick([0, 8, 12, 24, 40, 40, 80, 80, 120]);
  // Room for a header, and not for what it says.
  const address = random.chance(3) ? builder.control + BigInt(builder.process.areas[0].bytes) - 8n : buffer(builder);
  builder.play({ operation: 'read', name: 'read of a queue', fd, address, bytes });
}

function writeQueue(builder: Builder): void {
  const { random } = builder;
  const fds = queues.get(builder) ?? [];
  if (fds.length === 0) return;
  const fd = random.pick(fds);
  if (isFile(builder, fd) || isDevice(builder, fd)) return;
  const count = 1 + random.below(3);
  const words = Array.from({ length: count }, () => [random.below(4), random.chance(90) ? random.below(2) : 7]).flat();
  const pokes = [data(builder, words)];
  const bytes = random.chance(95) ? 8 * count : 4;
  builder.play({ operation: 'write', name: 'write to a queue', fd, address: buffer(builder, DATA), bytes, pokes });
}

export const hwptSteps: readonly Kind[] = [
  [6, allocPaging, 'device'],
  [6, allocNested, 'nesting'],
  [1, hwInfo, 'device'],
  [3, setTracking, 'paging'],
  [3, getBitmap, 'paging'],
  [5, invalidate, 'nested'],
  [4, allocViommu, 'nesting'],
  [5, allocVdevice, 'viommu'],
  [2, allocFault],
  [3, allocVeventq, 'viommu'],
  [3, allocQueue, 'viommu'],
  [4, readQueue, 'fault', 'veventq'],
  [2, writeQueue, 'fault'],
];
