import type { Builder } from './builder.ts';
import { iova, isFile } from './ioas-steps.ts';

/** What a program does with the file of a VFIO device, however it came to it. */

const PAGE = 4096;

export interface Bar {
  readonly address: number;
  readonly bytes: number;
}

export interface VfioState {
  /** Descriptors of devices. */
  readonly devices: number[];
  /** Their registers, mapped. */
  readonly bars: Bar[];
  /** IOVA pages that may lead to registers. */
  readonly registers: Set<bigint>;
}

const states = new WeakMap<Builder, VfioState>();

export function vfioState(builder: Builder): VfioState {
  const state = states.get(builder) ?? { devices: [], bars: [], registers: new Set<bigint>() };
  states.set(builder, state);
  return state;
}

/** Whether a descriptor is a device's, bound or not, to the process that plays: its registers can be read and written, which is nobody's business here. */
export function isDevice({ process, byChild }: Builder, fd: number): boolean {
  return process.file(fd, byChild)?.device !== undefined;
}

/** A descriptor of the list; sometimes another, or none. A device's own ioctls, which it shares numbers with, are nobody's business here. */
export function oneOf(builder: Builder, descriptors: readonly number[]): number {
  const { random } = builder;
  const isKnown = descriptors.length > 0 && !random.chance(3);
  const fd = isKnown ? random.pick(descriptors) : 3 + random.below(12);
  // The same number may be another file to the child.
  const isWanted = isKnown && descriptors === vfioState(builder).devices;
  return !isWanted && (isDevice(builder, fd) || isFile(builder, fd)) ? -1 : fd;
}

/** The device writes to memory. */
export function dma(builder: Builder): void {
  const { random } = builder;
  const { devices, registers } = vfioState(builder);
  if (devices.length === 0) return;
  const { mapped } = builder;
  const page = (mapped.length > 0 && random.chance(80) ? random.pick(mapped).iova : iova(builder)) & ~0xfffn;
  const address = page + BigInt(random.below(random.chance(30) ? 4 : 1) * PAGE + random.below(PAGE / 8) * 8);
  // A write for an interrupt is no DMA, and QEMU lets no device reach its own registers.
  if (page === 0xfee0_0000n || registers.has(address & ~0xfffn)) return;
  const fd = random.pick(devices);
  if (isDevice(builder, fd)) builder.play({ operation: 'dma', name: 'DMA', fd, address });
}

export function mapRegisters(builder: Builder): void {
  if (builder.byChild) return;
  const { random } = builder;
  const { devices, bars } = vfioState(builder);
  const bytes = random.chance(90) ? PAGE : random.pick([2 * PAGE, 16 * PAGE]);
  const fd = oneOf(builder, devices);
  // What is a device to the child may be memory here, which is mapped by other rules.
  const address = builder.mmap(isFile(builder, fd) ? -1 : fd, bytes, random.chance(92) ? 0n : random.pick([0x1000n, 20n << 40n]));
  if (address !== 0) bars.push({ address, bytes });
}

export function unmapRegisters(builder: Builder): void {
  const { bars } = vfioState(builder);
  if (bars.length === 0 || builder.byChild) return;
  const [{ address, bytes }] = bars.splice(builder.random.below(bars.length), 1);
  builder.play({ operation: 'munmap', name: 'munmap', request: address, bytes });
}

/** Closes a descriptor of the list. */
export function closeOne(builder: Builder, descriptors: number[]): void {
  if (descriptors.length === 0) return;
  const [fd] = descriptors.splice(builder.random.below(descriptors.length), 1);
  builder.play({ operation: 'close', name: 'close', fd });
}
