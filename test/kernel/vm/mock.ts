import { HostError } from '../../../src/host/errno.ts';
import type { Handle, IommufdHost, IommufdSpace } from '../../../src/host/iommufd/index.ts';
import type { Port, PortMemory } from '../../../src/host/port.ts';

/*
 * The kernel's own mock of an IOMMU (CONFIG_IOMMUFD_TEST, drivers/iommu/iommufd/iommufd_test.h): devices that exist only for
 * tests, and a look at what the hardware behind them was told. One ioctl, struct iommu_test_cmd.
 */

/** _IO(';', 0x80 + 32) */
const IOMMU_TEST_CMD = (0x3b << 8) | 0xa0;
/** size, op, id, reserved; a union of 48 bytes; last. */
const COMMAND_BYTES = 72;
const UNION = 4;

const OP = {
  mockDomain: 2,
  createAccess: 5,
  accessRw: 8,
  mockDomainReplace: 10,
  dirty: 13,
  checkIotlb: 14,
  triggerIopf: 15,
  checkCache: 16,
  triggerVevent: 17,
} as const;

/** Types of the mock where hardware has its own: enum iommu_hwpt_data_type and so on. */
export const MOCK = {
  stageOne: 0xdead,
  invalidation: 0xdead_beef,
  viommu: 0xdead_beef,
  eventQueue: 0xbeef_beef,
  hardwareQueue: 0xdead_beef,
  hwInfo: 0xfeed_beef,
  iotlbEntries: 4,
  cacheEntries: 4,
  cacheDefault: 0xbad_dad,
  queuesMax: 2,
} as const;

export class Mock {
  readonly #port: Port;
  readonly #fd: number;
  readonly #memory: PortMemory;
  readonly #words: Int32Array;

  constructor(port: Port, host: IommufdHost) {
    this.#port = port;
    this.#fd = host.fd;
    this.#memory = port.allocate(COMMAND_BYTES);
    this.#words = new Int32Array(this.#memory.buffer, 0, COMMAND_BYTES / 4);
  }

  /** Returns 0 or a negative errno. */
  #try(op: keyof typeof OP, id: number, union: readonly number[] = []): number {
    this.#words.fill(0);
    this.#words.set([COMMAND_BYTES, OP[op], id]);
    this.#words.set(union, UNION);
    return this.#port.ioctl(this.#fd, IOMMU_TEST_CMD, this.#memory);
  }

  #call(op: keyof typeof OP, id: number, union: readonly number[] = []): void {
    const result = this.#try(op, id, union);
    if (result < 0) throw new HostError(`IOMMU_TEST_CMD ${op}`, result);
  }

  /** A new mock device, bound and attached to the space. */
  addDevice(space: IommufdSpace): MockDevice {
    this.#call('mockDomain', space.id);
    return { attachment: this.#words[UNION], id: this.#words[UNION + 2] };
  }

  /** Attaches the device to a page table in place of what it had. Returns 0 or a negative errno. */
  attach(device: MockDevice, to: Handle): number {
    return this.#try('mockDomainReplace', device.attachment, [to.id]);
  }

  /** Kernel-side accesses to a space, as of an mdev: a descriptor for `accessRead`. */
  createAccess(space: IommufdSpace): number {
    this.#call('createAccess', space.id);
    return this.#words[UNION];
  }

  /** Reads through a space without a device. Returns 0 or a negative errno. */
  accessRead(access: number, iova: bigint, into: PortMemory, bytes: number): number {
    return this.#try('accessRw', access, [...halves(iova), ...halves(BigInt(bytes)), ...halves(into.address), 0]);
  }

  /** The hardware writes these pages of 4 KiB: bits of a bitmap. */
  dirty(table: Handle, iova: bigint, pages: number, bitmap: PortMemory): void {
    const range = [...halves(iova), ...halves(BigInt(pages * 4096)), ...halves(4096n), ...halves(bitmap.address)];
    this.#call('dirty', table.id, [0, 0, ...range]);
  }

  /** Whether an entry of a first stage's IOTLB holds a value. */
  iotlbHolds(table: Handle, entry: number, value: number): boolean {
    return this.#try('checkIotlb', table.id, [entry, value]) === 0;
  }

  cacheHolds(device: MockDevice, entry: number, value: number): boolean {
    return this.#try('checkCache', device.id, [entry, value]) === 0;
  }

  /** The device asks for a page. */
  requestPage(device: MockDevice, request: { pasid: number; group: number; permission: number; address: bigint }): void {
    this.#call('triggerIopf', device.id, [device.id, request.pasid, request.group, request.permission, ...halves(request.address)]);
  }

  reportEvent(device: MockDevice): number {
    return this.#try('triggerVevent', device.id, [device.id]);
  }

  release(): void {
    this.#memory.release();
  }
}

/** `id`: what the driver calls a device; `attachment`: what the mock's own operations call it. */
export interface MockDevice extends Handle {
  readonly attachment: number;
}

function halves(value: bigint): [number, number] {
  return [Number(value & 0xffff_ffffn), Number(value >> 32n)];
}
