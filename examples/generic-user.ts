/**
 * A program that does DMA without any guest, as DPDK does: it asks for I/O memory, whatever the kernel interface and the
 * IOMMU are. Nothing here is specific to one: addresses, alignment and limits are asked for.
 */

// In a program of your own: from 'viommu'.
import { type Host, type HostDevice, type HostSpace, type IovaRange, type Port, pfnOf, READ_WRITE } from '../src/index.ts';

/** Memory that a device can reach. */
export interface IoBuffer {
  /** What the device is told: the address of the first byte as the device sees it. */
  readonly iova: bigint;
  readonly bytes: Uint8Array;
  /** The device can reach it no more. */
  free(): void;
}

/** I/O memory for one device, on any host. */
export class DmaPool {
  readonly device: HostDevice;
  readonly #space: HostSpace;
  /** Gives memory that the kernel can pin; an mmap of one's own would do as well. */
  readonly #memory: Pick<Port, 'allocate'>;
  /** First IOVA page that was not handed out yet, by aperture. */
  readonly #next: number[];
  readonly #apertures: readonly IovaRange[];

  constructor(host: Host, devicePath: string, memory: Pick<Port, 'allocate'>) {
    this.#memory = memory;
    this.device = host.openDevice(devicePath);
    this.#space = host.createSpace();
    if (this.#space.attach(this.device) < 0) this.#fail();
    this.#apertures = this.#space.apertures();
    this.#next = this.#apertures.map(({ first }) => first);
  }

  /** Memory for the device to read and write. Its size is rounded up to what the IOMMU can map. */
  allocate(bytes: number): IoBuffer {
    const granule = 2 ** (this.#space.granuleLg2 - 12);
    const pages = Math.ceil(bytes / 4096 / granule) * granule;
    // The host address has to be aligned as the IOVA is: room to move it up.
    const memory = this.#memory.allocate((pages + granule - 1) * 4096);
    const first = pfnOf(memory.address);
    const aligned = Math.ceil(first / granule) * granule;
    const iova = this.#place(pages, granule);
    if (iova < 0) throw new RangeError(`no IOVA left for ${bytes} bytes`);
    if (this.#space.map(iova, aligned, pages, READ_WRITE) < 0) this.#fail();
    const free = () => {
      this.#space.unmap(iova, pages);
      memory.release();
    };
    return { iova: BigInt(iova) << 12n, bytes: new Uint8Array(memory.buffer, (aligned - first) * 4096, bytes), free };
  }

  /** The next free pages of the first aperture that has room; IOVA 0 is left out, which many devices take for "none". */
  #place(pages: number, granule: number): number {
    for (const [index, { last }] of this.#apertures.entries()) {
      const iova = Math.ceil(Math.max(this.#next[index], 1) / granule) * granule;
      if (iova + pages - 1 > last) continue;
      this.#next[index] = iova + pages;
      return iova;
    }
    return -1;
  }

  /** What the kernel refused, with operation, range and errno. */
  #fail(): never {
    throw this.#space.error ?? new Error('refused');
  }

  close(): void {
    this.#space.detach(this.device);
    this.#space.close();
    this.device.close();
  }
}

/** The driver of the device: makes it copy bytes from one IOVA to another. */
export type DeviceCopy = (device: HostDevice, from: bigint, to: bigint, bytes: number) => void | Promise<void>;

/** Has the device copy a message from one buffer to another, and returns what arrived. */
export async function sendThroughDevice(
  host: Host,
  devicePath: string,
  memory: Pick<Port, 'allocate'>,
  copy: DeviceCopy,
  message: string,
): Promise<string> {
  const pool = new DmaPool(host, devicePath, memory);
  const bytes = new TextEncoder().encode(message);
  const source = pool.allocate(bytes.length);
  const destination = pool.allocate(bytes.length);
  source.bytes.set(bytes);
  await copy(pool.device, source.iova, destination.iova, bytes.length);
  const arrived = new TextDecoder().decode(destination.bytes.slice());
  source.free();
  destination.free();
  pool.close();
  return arrived;
}
