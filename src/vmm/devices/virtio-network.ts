import { requireBytes, requireNumber } from '../../memory/arguments.ts';
import { BROKEN, Chain, EMPTY, type QueueMemory, VirtioDevice } from '../../virtqueue/index.ts';
import type { VirtioDescription, VirtioModel } from '../virtio/model.ts';
import { VirtioType } from '../virtio/spec.ts';
import { FRAME_BYTES, type NetworkBackend } from './network-backend.ts';
import { SHARED_FEATURES, serveQueue } from './serve.ts';

/** Network device: Virtual I/O Device (VIRTIO) 1.3, 5.1. Feature (5.1.3): the device says its MAC address. */
const F_MAC = 1n << 5n;
/** Queues (5.1.2), and struct virtio_net_config (5.1.4): mac u8[6], then what other features would show. */
const Queue = { RECEIVE: 0, TRANSMIT: 1, COUNT: 2 } as const;
const CONFIG_BYTES = 6;
/** struct virtio_net_hdr (5.1.6) before each packet; num_buffers, its last field, is there with VERSION_1 and says 1. */
const HEADER = { NUM_BUFFERS: 10, BYTES: 12 } as const;

/** Packets sent for one notification; the rest in another turn. */
const PACKETS_A_TURN = 64;
/** Packets kept while the driver has given no buffer; more are lost, as on a wire. */
const WAITING_LIMIT = 256;
/** Ethernet controller. */
const PCI_CLASS = 0x020000;

/**
 * A virtio network device without offloads: one queue to receive, one to transmit. Work for a notification is bounded by 64 packets, and what
 * waits for buffers by 256.
 *
 * @example
 * const backend = { connect: () => {}, send: () => {} };
 * const network = new VirtioNetwork(GuestMemory.ofBytes(1 << 20), backend, () => {});
 * const mac = new Uint8Array(6);
 * network.readConfig(0, mac);
 * mac[0]; // 0x52
 */
export class VirtioNetwork implements VirtioModel {
  readonly device: VirtioDevice;
  readonly #memory: QueueMemory;
  readonly #backend: NetworkBackend;
  readonly #mac: Uint8Array;
  /** One for each queue: a back end may answer while a packet is being sent. */
  readonly #sent = new Chain();
  readonly #received = new Chain();
  readonly #packet = new Uint8Array(HEADER.BYTES + FRAME_BYTES);
  readonly #waiting: Uint8Array[] = [];
  /** Packets to and from the driver, and those for which it had no room; for reports. */
  readonly counts = { received: 0, sent: 0, dropped: 0 };

  /** `interrupt`: as VirtioPci.interrupt takes it. `mac`: 6 bytes. @throws RangeError for a MAC address of another length. */
  constructor(
    memory: QueueMemory,
    backend: NetworkBackend,
    interrupt: (source: number) => void,
    mac: Uint8Array = Uint8Array.of(0x52, 0x54, 0, 0x12, 0x34, 0x56),
  ) {
    if (mac.length !== CONFIG_BYTES) throw new RangeError(`VirtioNetwork: mac has ${mac.length} bytes, not ${CONFIG_BYTES}`);
    this.#memory = memory;
    this.#backend = backend;
    this.#mac = Uint8Array.from(mac);
    const reset = () => void this.#waiting.splice(0);
    this.device = new VirtioDevice(memory, F_MAC | SHARED_FEATURES, Queue.COUNT, 256, { interrupt, negotiated: () => {}, reset });
    backend.connect((frame) => this.#receive(frame));
  }

  /** What VirtioPci needs. */
  get description(): VirtioDescription {
    return { type: VirtioType.NETWORK, queues: Queue.COUNT, configBytes: CONFIG_BYTES, classCode: PCI_CLASS, model: this };
  }

  readConfig(offset: number, to: Uint8Array): void {
    requireNumber('VirtioNetwork', 'offset', offset);
    requireBytes('VirtioNetwork', 'to', to);
    for (let i = 0; i < to.length; i++) to[i] = this.#mac[offset + i] ?? 0;
  }

  /** A driver that has VERSION_1 writes nothing of it (5.1.4.2). */
  writeConfig(): void {}

  notify(index: number): boolean {
    requireNumber('VirtioNetwork', 'index', index);
    if (index !== Queue.TRANSMIT) {
      this.#deliver();
      return false;
    }
    return serveQueue(this.device, index, this.#sent, PACKETS_A_TURN, this.#transmit);
  }

  /** One that is no packet, or too long for Ethernet, goes nowhere. Negative: its buffer is no memory. */
  readonly #transmit = (): number => {
    const bytes = this.#sent.readable;
    if (bytes <= HEADER.BYTES || bytes > this.#packet.length) {
      this.counts.dropped++;
      return 0;
    }
    if (this.#sent.read(this.#memory, this.#packet, 0, bytes) < 0) return -1;
    this.counts.sent++;
    this.#backend.send(this.#packet.slice(HEADER.BYTES, bytes));
    return 0;
  };

  #receive(frame: Uint8Array): void {
    if (
      frame.length === 0 ||
      frame.length > FRAME_BYTES ||
      this.#waiting.length >= WAITING_LIMIT ||
      this.device.queue(Queue.RECEIVE) === null
    ) {
      this.counts.dropped++;
      return;
    }
    this.#waiting.push(frame);
    this.#deliver();
  }

  /** What waits, as far as the driver has buffers for it (5.1.6.4). */
  #deliver(): void {
    const queue = this.device.queue(Queue.RECEIVE);
    if (queue === null) return;
    const chain = this.#received;
    while (this.#waiting.length > 0) {
      const taken = queue.take(chain);
      if (taken === EMPTY) {
        if (queue.rearm()) continue;
        break;
      }
      const written = taken === BROKEN ? -1 : this.#put(this.#waiting.shift()!);
      if (written < 0 || queue.give(chain, written) < 0) {
        this.device.breakDown();
        return;
      }
    }
    if (queue.publish()) this.device.interrupt(Queue.RECEIVE);
  }

  /** Header and frame into the buffer; one that is too small stays empty. Negative: it is no memory. */
  #put(frame: Uint8Array): number {
    const bytes = HEADER.BYTES + frame.length;
    if (this.#received.writable < bytes) {
      this.counts.dropped++;
      return 0;
    }
    const packet = this.#packet;
    packet.fill(0, 0, HEADER.BYTES);
    packet[HEADER.NUM_BUFFERS] = 1;
    packet.set(frame, HEADER.BYTES);
    this.counts.received++;
    return this.#received.write(this.#memory, 0, packet, 0, bytes) < 0 ? -1 : bytes;
  }
}
