import type { QueueSetup } from '../../virtqueue/index.ts';
import type { RegisterBlock } from '../pci/registers.ts';
import { featureWord, withFeatureWord } from './feature-words.ts';
import type { VirtioDescription } from './model.ts';
import { COMMON, NO_VECTOR } from './spec.ts';

/** What the driver has said of a queue, before and after it enabled it. */
interface QueueRegisters {
  size: number;
  vector: number;
  enabled: boolean;
  readonly addresses: [bigint, bigint, bigint];
}

/** The common configuration structure (4.1.4.3): which registers the driver sees of a device's status, features and queues. */
export class CommonConfig implements RegisterBlock {
  readonly #description: VirtioDescription;
  readonly #vectors: number;
  #queues: QueueRegisters[] = [];
  #deviceSelect = 0;
  #driverSelect = 0;
  #queueSelect = 0;
  /** MSI-X vector of configuration changes. */
  configVector: number = NO_VECTOR;
  readonly #reset: () => void;

  /** `vectors`: of the function's MSI-X; `reset`: the driver has reset the device. */
  constructor(description: VirtioDescription, vectors: number, reset: () => void) {
    this.#description = description;
    this.#vectors = vectors;
    this.#reset = reset;
    this.clear();
  }

  /** As before any driver came. */
  clear(): void {
    const { queues, model } = this.#description;
    this.#queues = Array.from({ length: queues }, () => ({
      size: model.device.queueSize,
      vector: NO_VECTOR,
      enabled: false,
      addresses: [0n, 0n, 0n],
    }));
    this.#deviceSelect = 0;
    this.#driverSelect = 0;
    this.#queueSelect = 0;
    this.configVector = NO_VECTOR;
  }

  vectorOf(queue: number): number {
    return this.#queues[queue]?.vector ?? NO_VECTOR;
  }

  read(offset: number, bytes: number): bigint {
    const view = new DataView(new ArrayBuffer(COMMON.BYTES + 8));
    this.#fill(view);
    let value = 0n;
    for (let i = 0; i < bytes && offset + i < COMMON.BYTES; i++) value |= BigInt(view.getUint8(offset + i)) << BigInt(8 * i);
    return value;
  }

  #fill(view: DataView): void {
    const { queues, model } = this.#description;
    const { device } = model;
    view.setUint32(COMMON.DEVICE_FEATURE_SELECT, this.#deviceSelect, true);
    view.setUint32(COMMON.DEVICE_FEATURE, featureWord(device.offeredFeatures, this.#deviceSelect), true);
    view.setUint32(COMMON.DRIVER_FEATURE_SELECT, this.#driverSelect, true);
    view.setUint32(COMMON.DRIVER_FEATURE, featureWord(device.driverFeatures, this.#driverSelect), true);
    view.setUint16(COMMON.CONFIG_MSIX_VECTOR, this.configVector, true);
    view.setUint16(COMMON.NUM_QUEUES, queues, true);
    view.setUint8(COMMON.DEVICE_STATUS, device.status);
    view.setUint16(COMMON.QUEUE_SELECT, this.#queueSelect, true);
    const queue = this.#queues[this.#queueSelect];
    // A queue that there is not has size 0 (4.1.4.3.1).
    if (queue === undefined) return;
    view.setUint16(COMMON.QUEUE_SIZE, queue.size, true);
    view.setUint16(COMMON.QUEUE_MSIX_VECTOR, queue.vector, true);
    view.setUint16(COMMON.QUEUE_ENABLE, Number(queue.enabled), true);
    view.setUint16(COMMON.QUEUE_NOTIFY_OFF, this.#queueSelect, true);
    queue.addresses.forEach((address, i) => {
      view.setBigUint64(COMMON.QUEUE_DESC + 8 * i, address, true);
    });
  }

  /** Registers are written whole, 64-bit ones in halves or whole (4.1.3.1); anything else is ignored. */
  write(offset: number, bytes: number, value: bigint): void {
    if (offset >= COMMON.QUEUE_DESC) this.#writeAddress(offset, bytes, value);
    else if (widths.get(offset) === bytes) this.#writeRegister(offset, Number(value));
  }

  #writeRegister(offset: number, value: number): void {
    const { device } = this.#description.model;
    const queue = this.#queues[this.#queueSelect];
    switch (offset) {
      case COMMON.DEVICE_FEATURE_SELECT:
        this.#deviceSelect = value;
        return;
      case COMMON.DRIVER_FEATURE_SELECT:
        this.#driverSelect = value;
        return;
      case COMMON.DRIVER_FEATURE:
        device.driverFeatures = withFeatureWord(device.driverFeatures, this.#driverSelect, value);
        return;
      case COMMON.CONFIG_MSIX_VECTOR:
        this.configVector = this.#vector(value);
        return;
      case COMMON.DEVICE_STATUS:
        device.status = value;
        if (value === 0) {
          this.clear();
          this.#reset();
        }
        return;
      case COMMON.QUEUE_SELECT:
        this.#queueSelect = value;
        return;
      case COMMON.QUEUE_SIZE:
        if (queue !== undefined && !queue.enabled) queue.size = value;
        return;
      case COMMON.QUEUE_MSIX_VECTOR:
        if (queue !== undefined) queue.vector = this.#vector(value);
        return;
      case COMMON.QUEUE_ENABLE:
        if (queue !== undefined && value === 1 && !queue.enabled) queue.enabled = device.setQueue(this.#queueSelect, setupOf(queue));
        return;
    }
  }

  /** One that there is not cannot be mapped, which the driver reads back (4.1.5.1.2.1). */
  #vector(value: number): number {
    return value < this.#vectors ? value : NO_VECTOR;
  }

  #writeAddress(offset: number, bytes: number, value: bigint): void {
    const queue = this.#queues[this.#queueSelect];
    const which = (offset - COMMON.QUEUE_DESC) >> 3;
    if (queue === undefined || queue.enabled || which > 2 || offset % bytes !== 0 || bytes < 4) return;
    const shift = BigInt(8 * (offset & 7));
    const mask = ((1n << BigInt(8 * bytes)) - 1n) << shift;
    queue.addresses[which] = (queue.addresses[which]! & ~mask) | (value << shift);
  }
}

/** Bytes of each register that can be written. */
const widths: ReadonlyMap<number, number> = new Map([
  [COMMON.DEVICE_FEATURE_SELECT, 4],
  [COMMON.DRIVER_FEATURE_SELECT, 4],
  [COMMON.DRIVER_FEATURE, 4],
  [COMMON.CONFIG_MSIX_VECTOR, 2],
  [COMMON.DEVICE_STATUS, 1],
  [COMMON.QUEUE_SELECT, 2],
  [COMMON.QUEUE_SIZE, 2],
  [COMMON.QUEUE_MSIX_VECTOR, 2],
  [COMMON.QUEUE_ENABLE, 2],
]);

function setupOf({ size, addresses }: QueueRegisters): QueueSetup {
  const [descriptors, driver, device] = addresses;
  return { size, descriptors, driver, device };
}
