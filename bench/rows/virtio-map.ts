import { hiOf, loOf } from '../../src/memory/address.ts';
import { GuestMemory } from '../../src/memory/guest-memory.ts';
import { VirtioIommu } from '../../src/target/virtio-iommu/index.ts';
import { REQUEST_QUEUE } from '../../src/target/virtio-iommu/spec/features.ts';
import { MAP_BYTES, T_MAP } from '../../src/target/virtio-iommu/spec/requests.ts';
import { F_EVENT_IDX, F_RING_PACKED, STATUS_DRIVER_OK } from '../../src/virtqueue/spec.ts';
import type { Row, Work } from '../row.ts';

/** Requests in a kick: each a device-readable descriptor and a device-writable one, as Linux has them. */
const REQUESTS = 2048;
const QUEUE_SIZE = 2 * REQUESTS;
const DESCRIPTORS = 0x1_0000;
const DRIVER = DESCRIPTORS + 16 * QUEUE_SIZE;
const DEVICE = DRIVER + 8 * QUEUE_SIZE;
const BUFFERS = DEVICE + 16 * QUEUE_SIZE;
const BUFFER_BYTES = 64;
const DOMAIN = 1;
const ENDPOINT = 8;
const NEXT = 1;
const WRITE = 2;

/** MAPs of 2048 pages, one each, all in one kick; they are unmapped again untimed. A driver that wants no interrupt. */
class Maps implements Work {
  readonly operations = REQUESTS;
  readonly #packed: boolean;
  readonly #memory = GuestMemory.ofBytes(0x10_0000);
  readonly #iommu: VirtioIommu;
  #kicks = 0;

  constructor(packed: boolean) {
    this.#packed = packed;
    const memory = this.#memory;
    this.#iommu = new VirtioIommu({ memory, queueSize: QUEUE_SIZE });
    this.#iommu.addEndpoint(ENDPOINT);
    const { device } = this.#iommu;
    this.#iommu.negotiate(device.offeredFeatures & ~F_EVENT_IDX & ~(packed ? 0n : F_RING_PACKED));
    const setup = { size: QUEUE_SIZE, descriptors: BigInt(DESCRIPTORS), driver: BigInt(DRIVER), device: BigInt(DEVICE) };
    if (!device.setQueue(REQUEST_QUEUE, setup)) throw new Error('virtio-map: no queue');
    device.status |= STATUS_DRIVER_OK;
    this.#iommu.attach(DOMAIN, ENDPOINT);
    for (let i = 0; i < REQUESTS; i++) this.#write(i);
    // VIRTQ_AVAIL_F_NO_INTERRUPT, RING_EVENT_FLAGS_DISABLE.
    memory.store16(0, packed ? DRIVER + 2 : DRIVER, 1);
  }

  /** Request and split descriptors number `i`; its page maps to one that is no neighbour of the page before. */
  #write(i: number): void {
    const buffer = BUFFERS + i * BUFFER_BYTES;
    const start = BigInt(i) << 12n;
    const request = new DataView(new ArrayBuffer(MAP_BYTES));
    request.setUint8(0, T_MAP);
    request.setUint32(4, DOMAIN, true);
    request.setBigUint64(8, start, true);
    request.setBigUint64(16, start | 0xfffn, true);
    request.setBigUint64(24, BigInt((i * 7) % REQUESTS) << 12n, true);
    request.setUint32(32, 3, true);
    this.#memory.write(0, buffer, new Uint8Array(request.buffer), 0, MAP_BYTES);
    this.#descriptor(2 * i, buffer, MAP_BYTES, NEXT | ((2 * i + 1) << 16));
    this.#descriptor(2 * i + 1, buffer + MAP_BYTES, 4, WRITE);
    this.#memory.store16(0, DRIVER + 4 + 2 * i, 2 * i);
    this.#memory.store16(0, DRIVER + 4 + 2 * (i + REQUESTS), 2 * i);
  }

  #descriptor(index: number, address: number, bytes: number, rest: number): void {
    const at = DESCRIPTORS + 16 * index;
    this.#memory.store64(0, at, hiOf(BigInt(address)), loOf(BigInt(address)));
    this.#memory.store64(0, at + 8, rest, bytes);
  }

  before(): void {
    this.#iommu.unmap(DOMAIN, 0n, 2n ** 39n - 1n);
    if (this.#packed) this.#offerPacked(this.#kicks % 2 === 0 ? 1 << 7 : 1 << 15);
    else this.#memory.store16(0, DRIVER + 2, ((this.#kicks + 1) * REQUESTS) & 0xffff);
    this.#kicks++;
  }

  /** A kick fills the ring, so each goes once round it. */
  #offerPacked(marks: number): void {
    for (let i = 0; i < REQUESTS; i++) {
      const buffer = BUFFERS + i * BUFFER_BYTES;
      this.#descriptor(2 * i, buffer, MAP_BYTES, i | ((NEXT | marks) << 16));
      this.#descriptor(2 * i + 1, buffer + MAP_BYTES, 4, i | ((WRITE | marks) << 16));
    }
  }

  batch(): number {
    this.#iommu.notify(REQUEST_QUEUE);
    const { mappings } = this.#iommu.counts;
    if (mappings !== REQUESTS) throw new Error(`virtio-map: ${mappings} mappings`);
    return mappings;
  }
}

export const row: Row = {
  name: 'virtio-map',
  baseline: null,
  variants: [
    { name: 'split ring', goal: null, baseline: null, setup: () => new Maps(false) },
    { name: 'packed ring', goal: null, baseline: null, setup: () => new Maps(true) },
  ],
};
