import { randomFillSync } from 'node:crypto';
import { BROKEN, Chain, EMPTY, type QueueMemory, VirtioDevice } from '../../virtqueue/index.ts';
import { F_EVENT_IDX, F_INDIRECT_DESC, F_RING_PACKED, F_VERSION_1 } from '../../virtqueue/spec.ts';
import type { VirtioDescription, VirtioModel } from '../virtio/model.ts';
import { F_ACCESS_PLATFORM, VirtioType } from '../virtio/spec.ts';

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
    const offered = F_INDIRECT_DESC | F_EVENT_IDX | F_VERSION_1 | F_ACCESS_PLATFORM | F_RING_PACKED;
    this.device = new VirtioDevice(memory, offered, 1, 64, { interrupt, negotiated: () => {}, reset: () => {} });
  }

  /** What VirtioPci needs. */
  get description(): VirtioDescription {
    return { type: VirtioType.ENTROPY, queues: 1, configBytes: 0, classCode: PCI_CLASS, model: this };
  }

  /** There is no configuration (5.4.4). */
  readConfig(_offset: number, to: Uint8Array): void {
    to.fill(0);
  }

  writeConfig(): void {}

  notify(index: number): boolean {
    const queue = this.device.queue(index);
    if (queue === null) return false;
    const chain = this.#chain;
    for (let done = 0; done < BUFFERS_A_TURN; done++) {
      const taken = queue.take(chain);
      if (taken === EMPTY) {
        if (queue.publish()) this.device.interrupt(index);
        // One that came between the last look and now would not notify.
        if (!queue.rearm()) return false;
        continue;
      }
      const bytes = taken === BROKEN ? 0 : this.#serve();
      if (bytes === 0 || queue.give(chain, bytes) < 0) {
        this.device.breakDown();
        return false;
      }
    }
    if (queue.publish()) this.device.interrupt(index);
    return true;
  }

  /** How much went into the buffer: at least a byte (5.4.6.2). 0: it has no room, or is no memory. */
  #serve(): number {
    const bytes = Math.min(this.#chain.writable, BYTES_LIMIT);
    if (bytes === 0) return 0;
    this.#fill(this.#buffer.subarray(0, bytes));
    if (this.#chain.write(this.#memory, 0, this.#buffer, 0, bytes) < 0) return 0;
    this.counts.buffers++;
    this.counts.bytes += bytes;
    return bytes;
  }
}
