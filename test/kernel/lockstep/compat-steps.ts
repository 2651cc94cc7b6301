import * as uapi from '../../../src/host/vfio/uapi.ts';
import type { Builder, Kind } from './builder.ts';
import { buffer, fresh, iova, length, memory } from './ioas-steps.ts';

/** VFIO's container calls on /dev/iommu, or on a container of its own. */

function map(builder: Builder, fd: number): void {
  const { random } = builder;
  // Without a permission Linux 7.3.4 warns of itself (generic_pt), and so it is not tried.
  const flags = random.chance(92) ? random.pick([1, 2, 3, 3]) : random.pick([5, 9, 1 << 20]);
  const at = random.chance(80) ? fresh(builder) : iova(builder);
  const [from, bytes] = [memory(builder), length(builder)];
  const { result } = builder.ioctl('VFIO_IOMMU_MAP_DMA', fd, uapi.VFIO_IOMMU_MAP_DMA, [flags, from, at, bytes]);
  if (result === 0) builder.mapped.push({ ioas: 0, iova: at, length: bytes, memory: from });
}

function unmap(builder: Builder, fd: number): void {
  const { random, mapped } = builder;
  const all = random.chance(15);
  const known = mapped.length > 0 && random.chance(70) ? random.pick(mapped) : null;
  // A part of a mapping now and then: what only the older type takes.
  const part = known !== null && random.chance(30);
  const at = (known?.iova ?? iova(builder)) + (part && random.chance(50) ? 4096n : 0n);
  const bytes = part ? 4096n : (known?.length ?? length(builder));
  const fields = all ? [2, random.chance(90) ? 0n : 4096n, 0n] : [random.chance(95) ? 0 : builder.flags(2), at, bytes];
  builder.ioctl('VFIO_IOMMU_UNMAP_DMA', fd, uapi.VFIO_IOMMU_UNMAP_DMA, fields);
}

/** `argsz` is what there is room for, and no longer the struct's size. */
function info(builder: Builder, fd: number): void {
  const { random } = builder;
  const argsz = random.pick([12, 16, 20, 24, 36, 40, 56, 72, 88, 104, 120, 256]);
  const bytes = Buffer.alloc(256, random.chance(50) ? 0xff : 0);
  bytes.writeUInt32LE(argsz, 0);
  const address = buffer(builder, 0x600n);
  const pokes = [{ address: builder.control + 0x600n, bytes }];
  builder.play({ operation: 'ioctl', name: 'VFIO_IOMMU_GET_INFO', fd, request: uapi.VFIO_IOMMU_GET_INFO, address, pokes });
}

function plain(builder: Builder, fd: number, name: string, request: number, argument: number): number {
  return builder.play({ operation: 'ioctl', name, fd, request, address: BigInt(argument) }).result;
}

function extension(builder: Builder, fd: number): void {
  plain(builder, fd, 'VFIO_CHECK_EXTENSION', uapi.VFIO_CHECK_EXTENSION, builder.random.below(12));
}

function setIommu(builder: Builder, fd: number): void {
  plain(builder, fd, 'VFIO_SET_IOMMU', uapi.VFIO_SET_IOMMU, builder.random.pick([1, 3, 3, 1, 0, 7]));
}

export const compatSteps: readonly Kind[] = [
  [4, map],
  [3, unmap],
  [1, info],
  [1, extension],
  [1, setIommu],
];
