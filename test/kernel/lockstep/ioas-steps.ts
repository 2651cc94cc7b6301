import { errno } from '../../../src/host/errno.ts';
import { ioctl } from '../../../src/host/iommufd/uapi.ts';
import { SharedFile } from '../../../src/host/sim/files.ts';
import type { Builder, Kind } from './builder.ts';

/** I/O address spaces and the objects of iommufd that need no device. */

/** Where the mock maps, and the edges of that and of everything. */
const BASE = 0x100_0000n;
const EDGES = [0n, 0x1000n, BASE - 0x1000n, 0x7fff_f000n, 0x8000_0000n, 0xfee0_0000n, 1n << 48n, (1n << 64n) - 0x1000n, (1n << 64n) - 1n];
/** The mock's page, half of the machine's. */
const HALF = 2048n;

export function iova(builder: Builder): bigint {
  const { random, mapped } = builder;
  if (mapped.length > 0 && random.chance(60)) return random.pick(mapped).iova;
  if (random.chance(6)) return random.pick(EDGES);
  return fresh(builder);
}

/** A page that may be free. */
export function fresh({ random }: Builder): bigint {
  const page = BASE + BigInt(random.below(24)) * 2n * HALF;
  return page + (random.chance(10) ? HALF : random.chance(3) ? 1n : 0n);
}

export function length(builder: Builder): bigint {
  const { random } = builder;
  if (random.chance(4)) return random.pick([0n, 1n, HALF, (1n << 64n) - 1n, (1n << 64n) - 0x1000n, 1n << 40n]);
  return BigInt(1 + random.below(4)) * 2n * HALF + (random.chance(6) ? HALF : 0n);
}

/** Somewhere in the memory that is there to be mapped; sometimes beside it. */
export function memory(builder: Builder): bigint {
  const { random, data, process } = builder;
  if (random.chance(4))
    return random.pick([0n, data.address + BigInt(data.bytes) - 0x1000n, process.areas[2].address, (1n << 64n) - 0x1000n]);
  return data.address + BigInt(random.below(data.bytes / 4096 - 4)) * 4096n + (random.chance(10) ? HALF : 0n);
}

const FIXED = 1;
const MAP_FLAGS = 7;

function mapFlags(builder: Builder): number {
  const { random } = builder;
  if (random.chance(6)) return builder.flags(MAP_FLAGS);
  return (random.chance(85) ? FIXED : 0) | random.pick([2, 4, 6, 6, 6]);
}

export function allocIoas(builder: Builder, fd: number): void {
  const { result, words } = builder.ioctl('IOAS_ALLOC', fd, ioctl.IOMMU_IOAS_ALLOC, [builder.flags(0), 0]);
  if (result === 0) builder.know('ioas', words[2]);
}

function map(builder: Builder, fd: number): void {
  const [ioas, from, bytes] = [builder.id('ioas'), memory(builder), length(builder)];
  const at = builder.random.chance(85) ? fresh(builder) : iova(builder);
  const fields = [mapFlags(builder), ioas, builder.flags(0), from, bytes, at];
  const { result, words } = builder.ioctl('IOAS_MAP', fd, ioctl.IOMMU_IOAS_MAP, fields);
  const iovaOf = (BigInt(words[9]) << 32n) | BigInt(words[8]);
  if (result === 0) builder.mapped.push({ ioas, iova: iovaOf, length: bytes, memory: from });
}

const FILE_BYTES = 0x8000;
/** Descriptors of memory that is a file. */
const files = new WeakMap<Builder, number[]>();

/** Whether a descriptor is of such a file to the process that plays: it can be read and written, which is nobody's business here. */
export function isFile({ process, byChild }: Builder, fd: number): boolean {
  return process.file(fd, byChild) instanceof SharedFile;
}

function makeFile(builder: Builder): void {
  const { result } = builder.play({ operation: 'memfd', name: 'memfd_create', bytes: FILE_BYTES });
  files.set(builder, [...(files.get(builder) ?? []), result]);
}

function mapFile(builder: Builder, fd: number): void {
  const { random } = builder;
  const known = files.get(builder);
  if (known === undefined) {
    makeFile(builder);
    return;
  }
  const [ioas, bytes] = [builder.id('ioas'), length(builder)];
  const file = random.chance(95) ? random.pick(known) : random.pick([fd, -1, 40]);
  const start = random.chance(2)
    ? (1n << 64n) - random.pick([0x1000n, bytes, 2n * bytes])
    : BigInt(random.below(6)) * 4096n + (random.chance(8) ? HALF : 0n);
  const isMemory = isFile(builder, file);
  const wanted = random.chance(85) ? fresh(builder) : iova(builder);
  const fields = [isMemory ? mapFlags(builder) : mapFlags(builder) | FIXED, ioas, file, start, bytes, wanted];
  const { result, words } = builder.ioctl('IOAS_MAP_FILE', fd, ioctl.IOMMU_IOAS_MAP_FILE, fields);
  const at = (BigInt(words[9]) << 32n) | BigInt(words[8]);
  // Not of the process's memory, so there is nothing to compare pages with.
  if (isMemory && result === 0) builder.mapped.push({ ioas, iova: at, length: bytes, memory: 0n });
  // What holds the iommufd would be held by it, and both, with all that is locked, outlive the program.
  if (!isMemory && (result === 0 || result === -errno.EFAULT)) unmapWhole(builder, fd, [ioas, wanted, bytes]);
}

/** Until it is gone: a call may have been one that cannot be read. */
function unmapWhole(builder: Builder, fd: number, fields: readonly [number, bigint, bigint]): void {
  for (;;) {
    const { result } = builder.ioctl('IOAS_UNMAP', fd, ioctl.IOMMU_IOAS_UNMAP, fields);
    if (result === 0 || result === -errno.ENOENT) return;
  }
}

function copy(builder: Builder, fd: number): void {
  const known = builder.mapped.length > 0 && builder.random.chance(85) ? builder.random.pick(builder.mapped) : null;
  const bytes = known !== null && builder.random.chance(80) ? known.length : length(builder);
  const fields = [
    mapFlags(builder),
    builder.id('ioas'),
    known?.ioas ?? builder.id('ioas'),
    bytes,
    fresh(builder),
    known?.iova ?? iova(builder),
  ];
  builder.ioctl('IOAS_COPY', fd, ioctl.IOMMU_IOAS_COPY, fields);
}

function unmap(builder: Builder, fd: number): void {
  const all = builder.random.chance(15);
  const known = builder.mapped.length > 0 && builder.random.chance(60) ? builder.random.pick(builder.mapped) : null;
  const fields = all
    ? [builder.id('ioas'), 0n, (1n << 64n) - 1n]
    : [
        known?.ioas ?? builder.id('ioas'),
        known?.iova ?? iova(builder),
        known?.length ?? length(builder) * BigInt(1 + builder.random.below(4)),
      ];
  builder.ioctl('IOAS_UNMAP', fd, ioctl.IOMMU_IOAS_UNMAP, fields);
}

/** Where lists and buffers for answers lie, behind the struct; sometimes beside what there is. */
export function buffer(builder: Builder, offset = 0x800n): bigint {
  return builder.random.chance(4) ? builder.badAddress(0x20) : builder.control + offset;
}

function ranges(builder: Builder, fd: number): void {
  const fields = [builder.id('ioas'), builder.random.below(5), builder.flags(0), buffer(builder), 0n];
  builder.ioctl('IOAS_IOVA_RANGES', fd, ioctl.IOMMU_IOAS_IOVA_RANGES, fields);
}

function allow(builder: Builder, fd: number): void {
  const { random } = builder;
  const count = random.below(4);
  const list = Buffer.alloc(count * 16);
  let end = 0n;
  for (let index = 0; index < count; index++) {
    const first = random.chance(25) ? end : iova(builder);
    end = BigInt.asUintN(64, first + length(builder) * 8n);
    list.writeBigUInt64LE(first, index * 16);
    list.writeBigUInt64LE(random.chance(10) ? BigInt.asUintN(64, first - 1n) : BigInt.asUintN(64, end - 1n), index * 16 + 8);
  }
  const address = buffer(builder);
  const pokes = [{ address: builder.control + 0x800n, bytes: list }];
  builder.ioctl('IOAS_ALLOW_IOVAS', fd, ioctl.IOMMU_IOAS_ALLOW_IOVAS, [builder.id('ioas'), count, builder.flags(0), address], pokes);
}

/** struct iommu_option has two fields of 16 bits in one word. */
function option(builder: Builder, fd: number): void {
  const { random } = builder;
  const huge = random.chance(80);
  const fields = [
    huge ? 1 : random.below(3),
    random.pick([0, 1, 1, 0, 2]),
    huge ? builder.id('ioas') : random.below(2),
    BigInt(random.below(3)),
  ];
  builder.ioctl('OPTION', fd, ioctl.IOMMU_OPTION, fields);
}

function vfioIoas(builder: Builder, fd: number): void {
  builder.ioctl('VFIO_IOAS', fd, ioctl.IOMMU_VFIO_IOAS, [builder.id('ioas'), builder.random.chance(70) ? 1 : builder.random.below(4)]);
}

function changeProcess(builder: Builder, fd: number): void {
  builder.ioctl('IOAS_CHANGE_PROCESS', fd, ioctl.IOMMU_IOAS_CHANGE_PROCESS, [builder.flags(0)]);
}

export function destroy(builder: Builder, fd: number, id: number): void {
  if (builder.ioctl('DESTROY', fd, ioctl.IOMMU_DESTROY, [id]).result === 0) builder.forget(id);
}

function unknown(builder: Builder, fd: number): void {
  const request = builder.random.pick([ioctl.IOMMU_DESTROY | (1 << 30), 0x3b95, 0x3b9f, 0x3bff, 0x1234]);
  builder.ioctl('no ioctl', fd, request, [0, 0]);
}

/** By how often they are wanted. */
export const ioasSteps: readonly Kind[] = [
  [2, allocIoas],
  [12, map],
  [4, mapFile],
  [5, copy],
  [6, unmap],
  [2, ranges],
  [2, allow],
  [2, option],
  [3, vfioIoas],
  [1, changeProcess],
  [1, unknown],
];
