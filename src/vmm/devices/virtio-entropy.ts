import { randomFillSync } from 'node:crypto';
import { requireBytes, requireNumber } from '../../memory/arguments.ts';
import { Chain, type QueueMemory, VirtioDevice } from '../../virtqueue/index.ts';
import type { VirtioDescription, VirtioModel } from '../virtio/model.ts';
import { VirtioType } from '../virtio/spec.ts';
import { SHARED_FEATURES, serveQueue } from './serve.ts';

/** Bytes of entropy in one buffer; of a longer one the rest is not used, which a device may do (5.4.6.2). */
const BYTES_LIMIT = 1 << 12;
/** Buffers filled for one notification; the rest in another turn. */
const BUFFERS_A_TURN = 32;
/** "Other" system peripheral. */
const PCI_CLASS = 0x088000;

/**
 * A virtio entropy device: Virtual I/O Device (VIRTIO) 1.3, 5.4. Work for a notification is bounded by 32 buffers of 4 KiB.
 *
 * @example
 * const entropy = new VirtioEntropy(GuestMemory.ofBytes(1 << 20), () => {});
 * entropy.description.type; // 4
 */
export class VirtioEntropy implements VirtioModel {
  readonly device: VirtioDevice;
  readonly #memory: QueueMemory;
  readonly #fill: (into: Uint8Array) => void;
  readonly #chain = new Chain();
  readonly #buffer = new Uint8Array(BYTES_LIMIT);
  /** For reports. */
  readonly counts = { buffers: 0, bytes: 0 };

  /** `interrupt`: as VirtioPci.interrupt takes it. `fill`: where the entropy comes from; default: the operating system. */
  constructor(
    memory: QueueMemory,
    interrupt: (source: number) => void,
    fill: (into: Uint8Array) => void = (into) => void randomFillSync(into),
  ) {
    this.#memory = memory;
    this.#fill = fill;
    this.device = new VirtioDevice(memory, SHARED_FEATURES, 1, 64, { interrupt, negotiated: () => {}, reset: () => {} });
  }

  /** What VirtioPci needs. */
  get description(): VirtioDescription {
    return { type: VirtioType.ENTROPY, queues: 1, configBytes: 0, classCode: PCI_CLASS, model: this };
  }

  /** There is no configuration (5.4.4). */
  readConfig(_offset: number, to: Uint8Array): void {
    requireNumber('VirtioEntropy', 'offset', _offset);
    requireBytes('VirtioEntropy', 'to', to);
    to.fill(0);
  }

  writeConfig(): void {}

  notify(index: number): boolean {
    requireNumber('VirtioEntropy', 'index', index);
    return serveQueue(this.device, index, this.#chain, BUFFERS_A_TURN, this.#serve);
  }

  /** How much went into the buffer: at least a byte (5.4.6.2). Negative: it has no room, or is no memory. */
  readonly #serve = (): number => {
    const bytes = Math.min(this.#chain.writable, BYTES_LIMIT);
    if (bytes === 0) return -1;
    this.#fill(this.#buffer.subarray(0, bytes));
    if (this.#chain.write(this.#memory, 0, this.#buffer, 0, bytes) < 0) return -1;
    this.counts.buffers++;
    this.counts.bytes += bytes;
    return bytes;
  };
}
