import { requireBytes, requireNumber } from '../../memory/arguments.ts';
import { Chain, type QueueMemory, VirtioDevice } from '../../virtqueue/index.ts';
import type { VirtioDescription, VirtioModel } from '../virtio/model.ts';
import { VirtioType } from '../virtio/spec.ts';
import type { BlockBackend } from './block-backend.ts';
import { SHARED_FEATURES, serveQueue } from './serve.ts';

/** Block device: Virtual I/O Device (VIRTIO) 1.3, 5.2. Features (5.2.3): */
const F_SIZE_MAX = 1n << 1n;
const F_SEG_MAX = 1n << 2n;
const F_BLK_SIZE = 1n << 6n;
const F_FLUSH = 1n << 9n;
/** struct virtio_blk_config (5.2.4): capacity in sectors u64, size_max u32, seg_max u32, geometry, blk_size u32. */
const CONFIG = { CAPACITY: 0, SIZE_MAX: 8, SEG_MAX: 12, BLK_SIZE: 20, BYTES: 60 } as const;
/** Requests (5.2.6): type u32, reserved u32, sector u64; then data, then a status byte. */
const Request = { IN: 0, OUT: 1, FLUSH: 4, GET_ID: 8, HEAD_BYTES: 16, ID_BYTES: 20 } as const;
const Status = { OK: 0, IOERR: 1, UNSUPP: 2 } as const;

const SECTOR = 512;
/** What one request may carry: pieces, and bytes of each; a longer one ends with IOERR. */
const SEGMENTS = 64;
const SEGMENT_BYTES = 1 << 16;
const DATA_LIMIT = SEGMENTS * SEGMENT_BYTES;
/** Requests served for one notification; the rest in another turn. */
const REQUESTS_A_TURN = 32;
const PCI_CLASS = 0x010000;

/**
 * A virtio block device. Its rings and data lie in the memory that it is given: a TranslatedMemory where an IOMMU is in front of it.
 * Work for a notification is bounded by 32 requests of 4 MiB.
 *
 * @example
 * const block = new VirtioBlock(GuestMemory.ofBytes(1 << 20), new MemoryBackend(1 << 20), () => {});
 * const capacity = new Uint8Array(8);
 * block.readConfig(0, capacity);
 * capacity[1]; // 8: 0x800 sectors of 512 bytes
 */
export class VirtioBlock implements VirtioModel {
  readonly device: VirtioDevice;
  readonly #memory: QueueMemory;
  readonly #backend: BlockBackend;
  readonly #config = new DataView(new ArrayBuffer(CONFIG.BYTES));
  readonly #chain = new Chain();
  readonly #serial: string;
  #buffer = new Uint8Array(Request.HEAD_BYTES + (1 << 16));
  /** Requests done, and those that ended badly; for reports. */
  readonly counts = { reads: 0, writes: 0, flushes: 0, errors: 0, bytes: 0 };

  /** `serial`: 20 characters at most. `interrupt`: as VirtioPci.interrupt takes it. */
  constructor(memory: QueueMemory, backend: BlockBackend, interrupt: (source: number) => void, serial = 'viommu') {
    this.#memory = memory;
    this.#backend = backend;
    this.#serial = serial;
    const offered = F_SIZE_MAX | F_SEG_MAX | F_BLK_SIZE | F_FLUSH | SHARED_FEATURES;
    this.device = new VirtioDevice(memory, offered, 1, 256, { interrupt, negotiated: () => {}, reset: () => {} });
    this.#config.setBigUint64(CONFIG.CAPACITY, BigInt(backend.bytes / SECTOR), true);
    this.#config.setUint32(CONFIG.SIZE_MAX, SEGMENT_BYTES, true);
    this.#config.setUint32(CONFIG.SEG_MAX, SEGMENTS, true);
    this.#config.setUint32(CONFIG.BLK_SIZE, SECTOR, true);
  }

  /** What VirtioPci needs. */
  get description(): VirtioDescription {
    return { type: VirtioType.BLOCK, queues: 1, configBytes: CONFIG.BYTES, classCode: PCI_CLASS, model: this };
  }

  readConfig(offset: number, to: Uint8Array): void {
    requireNumber('VirtioBlock', 'offset', offset);
    requireBytes('VirtioBlock', 'to', to);
    for (let i = 0; i < to.length; i++) to[i] = offset + i < CONFIG.BYTES ? this.#config.getUint8(offset + i) : 0;
  }

  /** Nothing of it can be written without F_CONFIG_WCE. */
  writeConfig(): void {}

  notify(index: number): boolean {
    requireNumber('VirtioBlock', 'index', index);
    return serveQueue(this.device, index, this.#chain, REQUESTS_A_TURN, this.#serve);
  }

  /** Negative: the driver's buffer has no room for a status, or is no memory. */
  readonly #serve = (): number => {
    const chain = this.#chain;
    if (chain.writable < 1) return -1;
    const data = chain.writable - 1;
    const { code, written } = this.#perform(data);
    if (code !== Status.OK) this.counts.errors++;
    // The status is the last byte, wherever the data ended (5.2.6).
    return chain.write(this.#memory, data, Uint8Array.of(code), 0, 1) < 0 ? -1 : written + 1;
  };

  #perform(room: number): { readonly code: number; readonly written: number } {
    const chain = this.#chain;
    const bytes = chain.readable;
    if (bytes < Request.HEAD_BYTES || bytes > Request.HEAD_BYTES + DATA_LIMIT || room > DATA_LIMIT) return failed(Status.IOERR);
    this.#reserve(Math.max(bytes, room));
    if (chain.read(this.#memory, this.#buffer, 0, bytes) < 0) return failed(Status.IOERR);
    const head = new DataView(this.#buffer.buffer, 0, Request.HEAD_BYTES);
    const type = head.getUint32(0, true);
    const place = Number(head.getBigUint64(8, true)) * SECTOR;
    switch (type) {
      case Request.IN:
        return this.#read(place, room);
      case Request.OUT:
        return this.#write(place, bytes - Request.HEAD_BYTES);
      case Request.FLUSH:
        this.counts.flushes++;
        return failed(this.#backend.flush() < 0 ? Status.IOERR : Status.OK);
      case Request.GET_ID:
        return this.#identify(room);
    }
    return failed(Status.UNSUPP);
  }

  #read(place: number, bytes: number): { code: number; written: number } {
    if (!this.#within(place, bytes)) return failed(Status.IOERR);
    if (this.#backend.read(place, this.#buffer.subarray(0, bytes)) < 0) return failed(Status.IOERR);
    if (this.#chain.write(this.#memory, 0, this.#buffer, 0, bytes) < 0) return failed(Status.IOERR);
    this.counts.reads++;
    this.counts.bytes += bytes;
    return { code: Status.OK, written: bytes };
  }

  #write(place: number, bytes: number): { code: number; written: number } {
    if (!this.#within(place, bytes)) return failed(Status.IOERR);
    if (this.#backend.write(place, this.#buffer.subarray(Request.HEAD_BYTES, Request.HEAD_BYTES + bytes)) < 0) return failed(Status.IOERR);
    this.counts.writes++;
    this.counts.bytes += bytes;
    return failed(Status.OK);
  }

  #identify(room: number): { code: number; written: number } {
    const id = new Uint8Array(Request.ID_BYTES);
    id.set(new TextEncoder().encode(this.#serial).subarray(0, Request.ID_BYTES));
    const written = Math.min(room, Request.ID_BYTES);
    return this.#chain.write(this.#memory, 0, id, 0, written) < 0 ? failed(Status.IOERR) : { code: Status.OK, written };
  }

  #within(place: number, bytes: number): boolean {
    return bytes % SECTOR === 0 && place + bytes <= this.#backend.bytes;
  }

  #reserve(bytes: number): void {
    if (bytes > this.#buffer.length) this.#buffer = new Uint8Array(2 ** Math.ceil(Math.log2(bytes)));
  }
}

/** A status with no data: also the success of what has none. */
function failed(code: number): { code: number; written: number } {
  return { code, written: 0 };
}
