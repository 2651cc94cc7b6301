import { ioctl } from '../../src/host/iommufd/uapi.ts';
import type { Port, PortMemory } from '../../src/host/port.ts';
import { must, OP, testCommand } from './iommufd-objects-fixture.ts';

/**
 * A kernel's port on which a device of its selftests' mock can be opened as VFIO's are: what a driver does with the device's node becomes calls of the
 * mock. So all that is above the driver runs on the mock's dirty bits, on the real kernel too.
 */

/** The node of the one device that there is. */
export const MOCK_NODE = '/dev/vfio/devices/mock';
const MOCK_PAGE = 2048n;

/** By word: struct vfio_device_bind_iommufd and vfio_device_attach_iommufd_pt. */
const BIND = { iommufd: 2, device: 3 } as const;
const ATTACH = { table: 2 } as const;

interface Bound {
  readonly iommufd: number;
  /** The mock's handle, and the space that it is in while it is attached to nothing. */
  readonly mock: number;
  readonly parking: number;
  /** The page table that it is attached to. */
  table: number;
}

export class MockVfioPort implements Port {
  readonly #port: Port;
  readonly #struct: PortMemory;
  readonly #words: Uint32Array;
  /** Stands for the device's node, where descriptors are that one process never has so many of. */
  readonly #fd = 1 << 20;
  #bound: Bound | null = null;

  constructor(port: Port) {
    this.#port = port;
    this.#struct = port.allocate(4096);
    this.#words = new Uint32Array(this.#struct.buffer);
  }

  get name(): string {
    return this.#port.name;
  }

  open(path: string): number {
    return path === MOCK_NODE ? this.#fd : this.#port.open(path);
  }

  close(fd: number): number {
    if (fd !== this.#fd) return this.#port.close(fd);
    const bound = this.#bound;
    this.#bound = null;
    if (bound !== null) for (const id of [bound.mock, bound.parking]) this.#call(bound.iommufd, ioctl.IOMMU_DESTROY, 8, id);
    return 0;
  }

  ioctl(fd: number, request: number, argument: PortMemory | number): number {
    if (fd !== this.#fd || typeof argument === 'number') return this.#port.ioctl(fd, request, argument);
    const words = new Uint32Array(argument.buffer, 0, 4);
    if (request === ioctl.VFIO_DEVICE_BIND_IOMMUFD) return this.#bind(words);
    if (request === ioctl.VFIO_DEVICE_ATTACH_IOMMUFD_PT) return this.#replace(words);
    return this.#replace(null);
  }

  #call(fd: number, request: number, ...words: readonly number[]): number {
    this.#words.fill(0);
    this.#words.set(words);
    return this.#port.ioctl(fd, request, this.#struct);
  }

  #bind(words: Uint32Array): number {
    const iommufd = words[BIND.iommufd];
    must(this.#call(iommufd, ioctl.IOMMU_IOAS_ALLOC, 12), 'IOAS_ALLOC');
    const parking = this.#words[2];
    must(testCommand(this.#port, this.#struct, iommufd, OP.mockDomainFlags, parking, 0, 0, 0, 0), 'MOCK_DOMAIN_FLAGS');
    const [mock, table, device] = this.#words.subarray(4, 7);
    this.#bound = { iommufd, mock, parking, table };
    words[BIND.device] = device;
    return 0;
  }

  /** null: it is detached. */
  #replace(words: Uint32Array | null): number {
    const bound = this.#bound as Bound;
    const to = words === null ? bound.parking : words[ATTACH.table];
    const result = testCommand(this.#port, this.#struct, bound.iommufd, OP.mockDomainReplace, bound.mock, to);
    if (result < 0) return result;
    bound.table = this.#words[4];
    if (words !== null) words[ATTACH.table] = bound.table;
    return 0;
  }

  /** The device writes a page that its table maps. */
  dirty(iova: bigint): void {
    const bitmap = this.#port.allocate(8);
    new DataView(bitmap.buffer).setBigUint64(0, 1n, true);
    const { iommufd, table } = this.#bound as Bound;
    must(testCommand(this.#port, this.#struct, iommufd, OP.dirty, table, 0, iova, MOCK_PAGE, MOCK_PAGE, bitmap.address, 0n), 'DIRTY');
    bitmap.release();
  }

  release(): void {
    this.#struct.release();
  }

  readlink(path: string): string | number {
    return this.#port.readlink(path);
  }

  allocate(bytes: number): PortMemory {
    return this.#port.allocate(bytes);
  }

  mmap(fd: number, bytes: number, offset: bigint): PortMemory | number {
    return this.#port.mmap(fd, bytes, offset);
  }

  read(fd: number, into: PortMemory, bytes: number): number {
    return this.#port.read(fd, into, bytes);
  }

  write(fd: number, from: PortMemory, bytes: number): number {
    return this.#port.write(fd, from, bytes);
  }

  poll(fd: number, milliseconds: number): number {
    return this.#port.poll(fd, milliseconds);
  }

  relax(): void {
    this.#port.relax();
  }

  eventfd(): number {
    return this.#port.eventfd();
  }
}
