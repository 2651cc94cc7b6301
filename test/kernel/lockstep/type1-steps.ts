import * as uapi from '../../../src/host/vfio/uapi.ts';
import type { Builder, Kind } from './builder.ts';
import { compatSteps } from './compat-steps.ts';
import { buffer, fresh, iova, length } from './ioas-steps.ts';
import { CONTAINER, deviceNames, GROUPS, IOMMUFD } from './machine.ts';
import { closeOne, dma, mapRegisters, oneOf, unmapRegisters, vfioState } from './vfio-steps.ts';

/** VFIO's containers and groups, and the type1 driver in them. */

/** Descriptors. */
interface Opened {
  readonly containers: number[];
  readonly groups: number[];
}

const states = new WeakMap<Builder, Opened>();

function opened(builder: Builder): Opened {
  const state = states.get(builder) ?? { containers: [], groups: [] };
  states.set(builder, state);
  return state;
}

/** Or an iommufd in its place. */
function openContainer(builder: Builder): void {
  const request = builder.random.chance(75) ? CONTAINER : IOMMUFD;
  const fd = builder.play({ operation: 'open', name: 'open of a container', request }).result;
  if (fd >= 0) opened(builder).containers.push(fd);
}

export function openGroup(builder: Builder): void {
  const fd = builder.play({ operation: 'open', name: 'open of a group', request: builder.random.pick(GROUPS) }).result;
  if (fd >= 0) opened(builder).groups.push(fd);
}

/** The argument is a pointer to a descriptor. */
function setContainer(builder: Builder): void {
  const { containers, groups } = opened(builder);
  const pokes = [{ address: builder.control, bytes: new Uint8Array(Int32Array.of(oneOf(builder, containers)).buffer) }];
  const address = builder.random.chance(97) ? builder.control : 0n;
  builder.play({
    operation: 'ioctl',
    name: 'GROUP_SET_CONTAINER',
    fd: oneOf(builder, groups),
    request: uapi.VFIO_GROUP_SET_CONTAINER,
    address,
    pokes,
  });
}

function unsetContainer(builder: Builder): void {
  const fd = oneOf(builder, opened(builder).groups);
  builder.play({ operation: 'ioctl', name: 'GROUP_UNSET_CONTAINER', fd, request: uapi.VFIO_GROUP_UNSET_CONTAINER });
}

function status(builder: Builder): void {
  builder.ioctl('GROUP_GET_STATUS', oneOf(builder, opened(builder).groups), uapi.VFIO_GROUP_GET_STATUS, [0]);
}

function setIommu(builder: Builder): void {
  const type = builder.random.chance(90) ? uapi.VFIO_TYPE1v2_IOMMU : builder.random.pick([2, 5, 7, 100]);
  const fd = oneOf(builder, opened(builder).containers);
  builder.play({ operation: 'ioctl', name: 'SET_IOMMU', fd, request: uapi.VFIO_SET_IOMMU, address: BigInt(type) });
}

/** The argument is the device's name. */
function deviceFd(builder: Builder): void {
  const { random } = builder;
  const name = random.chance(92) ? random.pick(deviceNames) : random.pick(['', '0000:00:05.0', 'x'.repeat(100)]);
  const bytes = Buffer.alloc(Math.ceil((name.length + 1) / 8) * 8);
  bytes.write(name);
  const address = random.chance(97) ? builder.control : builder.badAddress(16);
  const { result } = builder.play({
    operation: 'ioctl',
    name: 'GROUP_GET_DEVICE_FD',
    fd: oneOf(builder, opened(builder).groups),
    request: uapi.VFIO_GROUP_GET_DEVICE_FD,
    address,
    pokes: [{ address: builder.control, bytes }],
  });
  if (result >= 0) vfioState(builder).devices.push(result);
}

function track(builder: Builder, fd: number): void {
  builder.ioctl('DIRTY_PAGES', fd, uapi.VFIO_IOMMU_DIRTY_PAGES, [builder.random.chance(85) ? 1 : builder.random.pick([0, 2, 3, 8])]);
}

/** Where a bitmap lies; sometimes where nothing of a process can. */
function bits(builder: Builder): bigint {
  const { random } = builder;
  return random.chance(2) ? random.pick([(1n << 47n) - 0x1000n, 1n << 63n, (1n << 64n) - 8n]) : buffer(builder);
}

/** As little is mapped at a time, so many bits are wanted: the bitmap lies in the control page. */
function dirtyPages(builder: Builder, fd: number): void {
  const { random, mapped } = builder;
  if (random.chance(40)) {
    const everything = [4, 0x100_0000n - BigInt(random.below(4)) * 4096n, 100n * 4096n];
    builder.ioctl('DIRTY_PAGES get', fd, uapi.VFIO_IOMMU_DIRTY_PAGES, [...everything, 4096n, 16n, bits(builder)]);
    return;
  }
  const known = mapped.length > 0 && random.chance(80) ? random.pick(mapped) : null;
  // Sometimes a few pages more, before it and behind it.
  const before = random.chance(70) ? 0n : BigInt(1 + random.below(4)) * 4096n;
  const behind = random.chance(60) ? 0n : BigInt(1 + random.below(70)) * 4096n;
  const first = (known?.iova ?? iova(builder)) - before;
  const bytes = (known?.length ?? length(builder)) + before + behind;
  const bitmap = [random.chance(94) ? 4096n : random.pick([0n, 2048n, 8192n]), BigInt(random.pick([8, 16, 16, 16, 0, 4])), bits(builder)];
  builder.ioctl('DIRTY_PAGES get', fd, uapi.VFIO_IOMMU_DIRTY_PAGES, [4, first, bytes, ...bitmap]);
}

/** UNMAP with the bitmap of what it takes away, or of addresses only. */
function unmapTelling(builder: Builder, fd: number): void {
  const { random, mapped } = builder;
  const known = mapped.length > 0 && random.chance(85) ? random.pick(mapped) : null;
  const whole = random.chance(30);
  const first = whole ? 0x100_0000n - BigInt(random.below(3)) * 4096n : (known?.iova ?? iova(builder));
  const bytes = whole ? 60n * 4096n : (known?.length ?? length(builder));
  const flags = random.chance(85) ? 1 : random.pick([4, 5, 6, 3]);
  const bitmap = [random.chance(94) ? 4096n : 2048n, BigInt(random.pick([8, 8, 16, 0])), bits(builder)];
  builder.ioctl('UNMAP_DMA telling', fd, uapi.VFIO_IOMMU_UNMAP_DMA, [flags, first, bytes, ...bitmap]);
}

/** Mappings lose their address, and are given one again. */
function moveAddress(builder: Builder, fd: number): void {
  const { random, mapped } = builder;
  const known = mapped.length > 0 ? random.pick(mapped) : null;
  if (known === null) return;
  if (random.chance(50)) builder.ioctl('UNMAP_DMA of addresses', fd, uapi.VFIO_IOMMU_UNMAP_DMA, [4, known.iova, known.length]);
  else builder.ioctl('MAP_DMA of addresses', fd, uapi.VFIO_IOMMU_MAP_DMA, [4, known.memory, known.iova, known.length]);
}

/** Registers of a device as memory of the process. */
function mapBar(builder: Builder, fd: number): void {
  const { bars, registers } = vfioState(builder);
  if (bars.length === 0) return;
  const at = fresh(builder);
  const memory = BigInt(builder.random.pick(bars).address);
  const { result } = builder.ioctl('MAP_DMA of registers', fd, uapi.VFIO_IOMMU_MAP_DMA, [3, memory, at, 4096n]);
  if (result === 0) registers.add(at & ~0xfffn);
}

function unknown(builder: Builder): void {
  const { containers, groups } = opened(builder);
  const { devices } = vfioState(builder);
  const fd = oneOf(builder, [...containers, ...groups, ...devices]);
  builder.ioctl('no ioctl', fd, builder.random.pick([0x3bff, 0x1234, uapi.VFIO_IOMMU_ENABLE]), [0]);
}

export function closeGroup(builder: Builder): void {
  closeOne(builder, opened(builder).groups);
}

function closeAny(builder: Builder): void {
  const { containers, groups } = opened(builder);
  closeOne(builder, builder.random.pick([containers, groups, vfioState(builder).devices]));
}

/** What is done with a container. */
const on = (step: Kind[1]) => (builder: Builder) => step(builder, oneOf(builder, opened(builder).containers));

/** The usual way to a device. */
export function beginType1(builder: Builder): void {
  openContainer(builder);
  openGroup(builder);
  for (const step of [setContainer, setIommu, deviceFd, on(track)]) if (builder.random.chance(90)) step(builder);
}

export const type1Steps: readonly Kind[] = [
  ...compatSteps.map(([weight, step]): Kind => [weight * 4, on(step)]),
  [1, openContainer],
  [3, openGroup],
  [4, setContainer],
  [1, unsetContainer],
  [1, status],
  [3, setIommu],
  [5, deviceFd],
  [2, on(track)],
  [6, on(dirtyPages)],
  [3, on(unmapTelling)],
  [3, on(moveAddress)],
  [16, dma],
  [2, mapRegisters],
  [3, on(mapBar)],
  [1, unmapRegisters],
  [1, unknown],
  [2, closeAny],
];
