import { expect } from 'vitest';
import { errnoName } from '../../src/host/errno.ts';
import { ioctl } from '../../src/host/iommufd/uapi.ts';
import type { Port, PortMemory } from '../../src/host/port.ts';

/** Calls of iommufd as raw structs. */

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

export type AbiName = keyof typeof ioctl;
/** Fields by size: 32-bit ones as numbers, 64-bit ones as bigints, 16-bit ones as [value]. */
type Field = number | bigint | readonly [number];

export const U64_MAX = 0xffff_ffff_ffff_ffffn;
/** An address that no process has, and an ID that no object has. */
export const NOWHERE = 0x1000n;
export const NO_ID = 4000;
export const FIXED = 1;
export const WRITEABLE = 2;
export const READABLE = 4;
export const RW = FIXED | WRITEABLE | READABLE;

function bytesOf(fields: readonly Field[]): number {
  return fields.reduce<number>((sum, field) => sum + (typeof field === 'bigint' ? 8 : typeof field === 'number' ? 4 : 2), 0);
}

/** An open /dev/iommu, a struct to call with, and 64 KiB of memory to point at. */
export class AbiMachine {
  readonly fixture: AbiFixture;
  readonly port: Port;
  readonly struct: PortMemory;
  readonly memory: PortMemory;
  readonly fd: number;
  /** Closed after the case, whatever came of it. */
  readonly #open: number[] = [];

  constructor(fixture: AbiFixture) {
    this.fixture = fixture;
    this.port = fixture.port;
    this.struct = this.port.allocate(4096);
    this.memory = this.port.allocate(16 * 4096);
    this.fd = this.opened('/dev/iommu');
  }

  end(): void {
    for (const on of this.#open.reverse()) this.port.close(on);
    this.struct.release();
    this.memory.release();
    this.fixture.close();
  }

  /** Makes a call with the fields behind the struct's size, and gives the errno's name, or the number when it is none. */
  call(request: AbiName, ...fields: readonly Field[]): string | number {
    return this.callOn(this.fd, request, ...fields);
  }

  callOn(on: number, request: AbiName, ...fields: readonly Field[]): string | number {
    return this.sized(on, request, 4 + bytesOf(fields), ...fields);
  }

  sized(on: number, request: AbiName, size: number, ...fields: readonly Field[]): string | number {
    new Uint8Array(this.struct.buffer).fill(0);
    const view = new DataView(this.struct.buffer);
    view.setUint32(0, size, true);
    let at = 4;
    for (const field of fields) {
      if (typeof field === 'bigint') view.setBigUint64(at, field, true);
      else if (typeof field === 'number') view.setUint32(at, field, true);
      else view.setUint16(at, field[0], true);
      at += bytesOf([field]);
    }
    const result = this.port.ioctl(on, ioctl[request], this.struct);
    return result < 0 ? errnoName(result) : result;
  }

  /** What the kernel left in the struct. */
  out32(offset: number): number {
    return new DataView(this.struct.buffer).getUint32(offset, true);
  }

  out64(offset: number): bigint {
    return new DataView(this.struct.buffer).getBigUint64(offset, true);
  }

  opened(path: string): number {
    const on = this.port.open(path);
    expect(on).toBeGreaterThanOrEqual(0);
    this.#open.push(on);
    return on;
  }

  close(on: number): void {
    this.#open.splice(this.#open.indexOf(on), 1);
    this.port.close(on);
  }

  ioas(): number {
    expect(this.call('IOMMU_IOAS_ALLOC', 0, 0)).toBe(0);
    return this.out32(8);
  }

  /** A bound device: its descriptor and its ID. */
  bind(): { cdev: number; id: number } {
    const cdev = this.opened(this.fixture.device);
    expect(this.callOn(cdev, 'VFIO_DEVICE_BIND_IOMMUFD', 0, this.fd, 0)).toBe(0);
    return { cdev, id: this.out32(12) };
  }

  attach(cdev: number, id: number): void {
    expect(this.callOn(cdev, 'VFIO_DEVICE_ATTACH_IOMMUFD_PT', 0, id)).toBe(0);
  }

  map(id: number, iova: bigint, length: bigint, offset = 0n, flags = RW): string | number {
    return this.call('IOMMU_IOAS_MAP', flags, id, 0, this.memory.address + offset, length, iova);
  }

  unmap(id: number, iova: bigint, length: bigint): string | number {
    return this.call('IOMMU_IOAS_UNMAP', id, iova, length);
  }
}
