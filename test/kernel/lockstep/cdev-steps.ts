import { ioctl } from '../../../src/host/iommufd/uapi.ts';
import type { Builder, Kind } from './builder.ts';
import { buffer, fresh } from './ioas-steps.ts';
import { CDEVS, IOMMUFD } from './machine.ts';
import { closeGroup, openGroup } from './type1-steps.ts';
import { closeOne, dma, mapRegisters, oneOf, unmapRegisters, vfioState } from './vfio-steps.ts';

/** VFIO devices that are opened by their own node and bound to an iommufd. */

const PASIDS = [0, 1, 5, 1 << 20];
const FIXED_RW = 7;

export function openDevice(builder: Builder): void {
  const fd = builder.play({ operation: 'open', name: 'open of a device', request: builder.random.pick(CDEVS) }).result;
  if (fd >= 0) vfioState(builder).devices.push(fd);
}

/** Other iommufds, by descriptor. */
const iommufds = new WeakMap<Builder, number[]>();
const others = (builder: Builder) => iommufds.get(builder) ?? [];

function openIommufd(builder: Builder): void {
  const { result } = builder.play({ operation: 'open', name: 'open of another iommufd', request: IOMMUFD });
  iommufds.set(builder, [...others(builder), result]);
}

export function bind(builder: Builder, fd: number): void {
  const { random } = builder;
  const device = oneOf(builder, vfioState(builder).devices);
  const iommufd = random.chance(90) ? fd : random.pick([-1, device, 40, ...others(builder)]);
  const fields = [random.chance(95) ? 0 : builder.flags(1), iommufd, 0, random.chance(97) ? 0n : buffer(builder)];
  const { result, words } = builder.ioctl('BIND_IOMMUFD', device, ioctl.VFIO_DEVICE_BIND_IOMMUFD, fields);
  if (result === 0) builder.know('device', words[3]);
}

/** Flags and PASID of an attach or a detach: mostly without. */
function which(builder: Builder): readonly [number, number] {
  const { random } = builder;
  return random.chance(85) ? [0, 0] : [random.chance(85) ? 1 : builder.flags(1), random.pick(PASIDS)];
}

export function attach(builder: Builder): void {
  const [flags, pasid] = which(builder);
  const fields = [flags, builder.id('ioas', 'ioas', 'paging'), pasid];
  builder.ioctl('ATTACH', oneOf(builder, vfioState(builder).devices), ioctl.VFIO_DEVICE_ATTACH_IOMMUFD_PT, fields);
}

function detach(builder: Builder): void {
  const device = oneOf(builder, vfioState(builder).devices);
  builder.ioctl('DETACH', device, ioctl.VFIO_DEVICE_DETACH_IOMMUFD_PT, [...which(builder)]);
}

function unknown(builder: Builder): void {
  const request = builder.random.pick([ioctl.IOMMU_DESTROY, 0x3b12, 0x1234]);
  builder.ioctl('no ioctl of a device', oneOf(builder, vfioState(builder).devices), request, [0, 0]);
}

/** Registers of a device as memory of the process. */
function mapBar(builder: Builder, fd: number): void {
  const { bars, registers } = vfioState(builder);
  if (bars.length === 0) return;
  const at = fresh(builder);
  registers.add(at & ~0xfffn);
  const fields = [FIXED_RW, builder.id('ioas'), 0, BigInt(builder.random.pick(bars).address), 4096n, at];
  builder.ioctl('IOAS_MAP of registers', fd, ioctl.IOMMU_IOAS_MAP, fields);
}

export const cdevSteps: readonly Kind[] = [
  [3, openDevice],
  [1, openIommufd],
  [1, openGroup],
  [1, closeGroup],
  [5, bind],
  [10, attach],
  [4, detach],
  [16, dma],
  [1, unknown],
  [2, mapRegisters],
  [2, mapBar],
  [1, unmapRegisters],
  [1, (builder) => closeOne(builder, vfioState(builder).devices)],
];
