import { READ } from '../../src/memory/access.ts';
import { LO } from '../../src/memory/address.ts';
import { GuestMemory } from '../../src/memory/guest-memory.ts';
import { NO_PASID } from '../../src/target/target.ts';
import { VirtioIommu } from '../../src/target/virtio-iommu/index.ts';
import { REQUEST_QUEUE } from '../../src/target/virtio-iommu/spec/features.ts';
import { MAP_BYTES, T_MAP } from '../../src/target/virtio-iommu/spec/requests.ts';
import { F_EVENT_IDX, F_RING_PACKED, STATUS_DRIVER_OK } from '../../src/virtqueue/spec.ts';
import { type Row, variantsBeside, type Work } from '../row.ts';

/** As in bench/baseline/virtio.c. Requests in a kick: each a device-readable descriptor and a device-writable one, as Linux has them. */
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
const PACKED_AVAIL = 1 << 7;
const PACKED_USED = 1 << 15;

/** MAPs of 2048 pages, one each, all in one kick; they are looked at and unmapped again untimed. A driver that wants no interrupt. */
class Maps implements Work {
  readonly operations = REQUESTS;
  readonly #packed: boolean;
  readonly #memory = GuestMemory.ofBytes(0x10_0000);
  readonly #iommu: VirtioIommu;
  readonly #request = new Uint8Array(MAP_BYTES);
  readonly #fields = new DataView(this.#request.buffer);
  #kicks = 0;
  #seen = 0;
  #interrupts = 0;

  constructor(packed: boolean) {
    this.#packed = packed;
    const memory = this.#memory;
    this.#iommu = new VirtioIommu({ memory, queueSize: QUEUE_SIZE, interrupt: () => this.#interrupts++ });
    this.#iommu.addEndpoint(ENDPOINT);
    const { device } = this.#iommu;
    this.#iommu.negotiate(device.offeredFeatures & ~F_EVENT_IDX & ~(packed ? 0n : F_RING_PACKED));
    const setup = { size: QUEUE_SIZE, descriptors: BigInt(DESCRIPTORS), driver: BigInt(DRIVER), device: BigInt(DEVICE) };
    if (!device.setQueue(REQUEST_QUEUE, setup)) throw new Error('virtio-map: no queue');
    device.status |= STATUS_DRIVER_OK;
    this.#iommu.attach(DOMAIN, ENDPOINT);
    for (let i = 0; i < QUEUE_SIZE; i++) memory.store16(0, DRIVER + 4 + 2 * i, 2 * (i % REQUESTS));
    // VIRTQ_AVAIL_F_NO_INTERRUPT, RING_EVENT_FLAGS_DISABLE.
    memory.store16(0, packed ? DRIVER + 2 : DRIVER, 1);
  }

  before(): void {
    this.#seen = this.#look();
    this.#iommu.unmap(DOMAIN, 0n, 2n ** 39n - 1n);
    for (let i = 0; i < REQUESTS; i++) this.#write(i);
    this.#kicks++;
    if (!this.#packed) this.#memory.store16(0, DRIVER + 2, (this.#kicks * REQUESTS) & 0xffff);
  }

  /** What the kick before left: mappings, statuses, used buffers. */
  #look(): number {
    const memory = this.#memory;
    const { translated } = this.#iommu;
    const status = new Uint8Array(1);
    const used = DEVICE + 4 + 8 * (((this.#kicks - 1) * REQUESTS) & (QUEUE_SIZE - 1));
    let sum = this.#iommu.counts.mappings + this.#interrupts;
    const mix = (value: number) => {
      sum = (Math.imul(sum, 31) + value) | 0;
    };
    for (let i = 0; i < REQUESTS; i++) {
      if (this.#iommu.translate(ENDPOINT, NO_PASID, 0, i << 12, READ) > 0) mix(translated[LO]);
      memory.read(0, BUFFERS + i * BUFFER_BYTES + MAP_BYTES, status, 0, 1);
      mix(status[0]);
      memory.load64(0, this.#packed ? DESCRIPTORS + 32 * i + 8 : used + 8 * i);
      const [low, high] = memory.word;
      mix(low);
      mix(high);
    }
    return sum;
  }

  /** Request and descriptors number `i`; its page maps to one that is no neighbour of the page before, another one each time. */
  #write(i: number): void {
    const buffer = BUFFERS + i * BUFFER_BYTES;
    const fields = this.#fields;
    fields.setUint8(0, T_MAP);
    fields.setUint32(4, DOMAIN, true);
    fields.setUint32(8, i << 12, true);
    fields.setUint32(16, (i << 12) | 0xfff, true);
    fields.setUint32(24, ((i * 7 + this.#kicks) % REQUESTS) << 12, true);
    fields.setUint32(32, 3, true);
    this.#memory.write(0, buffer, this.#request, 0, MAP_BYTES);
    this.#memory.store32(0, buffer + MAP_BYTES, 0xff);
    // A kick fills the ring, so each goes once round it.
    const marks = this.#kicks % 2 === 0 ? PACKED_AVAIL : PACKED_USED;
    this.#descriptor(2 * i, buffer, MAP_BYTES, this.#packed ? i | ((NEXT | marks) << 16) : NEXT | ((2 * i + 1) << 16));
    this.#descriptor(2 * i + 1, buffer + MAP_BYTES, 4, this.#packed ? i | ((WRITE | marks) << 16) : WRITE);
  }

  #descriptor(index: number, address: number, bytes: number, rest: number): void {
    const at = DESCRIPTORS + 16 * index;
    this.#memory.store64(0, at, 0, address);
    this.#memory.store64(0, at + 8, rest, bytes);
  }

  batch(): number {
    this.#iommu.notify(REQUEST_QUEUE);
    return (this.#iommu.counts.mappings + this.#seen) | 0;
  }
}

const variant = variantsBeside('virtio');

export const row: Row = {
  name: 'virtio-map',
  baseline: 'the same rings, requests and checks in C, into an AVL tree of malloced nodes',
  variants: [variant('split ring', 3, ['split'], () => new Maps(false)), variant('packed ring', 3, ['packed'], () => new Maps(true))],
};
