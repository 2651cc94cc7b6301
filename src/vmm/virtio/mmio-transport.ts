import { requireAccess, requireInteger, requireNumber, requireObject } from '../../memory/arguments.ts';
import { CONFIG_INTERRUPT, type QueueSetup } from '../../virtqueue/index.ts';
import type { RegisterBlock } from '../pci/registers.ts';
import { featureWord, withFeatureWord } from './feature-words.ts';
import type { VirtioDescription } from './model.ts';
import { Isr } from './spec.ts';

/** Registers of the transport over MMIO: Virtual I/O Device (VIRTIO) 1.3, 4.2.2, 32 bits each. */
const REG = {
  MAGIC: 0x000,
  VERSION: 0x004,
  DEVICE_ID: 0x008,
  VENDOR_ID: 0x00c,
  DEVICE_FEATURES: 0x010,
  DEVICE_FEATURES_SEL: 0x014,
  DRIVER_FEATURES: 0x020,
  DRIVER_FEATURES_SEL: 0x024,
  QUEUE_SEL: 0x030,
  QUEUE_SIZE_MAX: 0x034,
  QUEUE_SIZE: 0x038,
  QUEUE_READY: 0x044,
  QUEUE_NOTIFY: 0x050,
  INTERRUPT_STATUS: 0x060,
  INTERRUPT_ACK: 0x064,
  STATUS: 0x070,
  QUEUE_DESC: 0x080,
  QUEUE_DRIVER: 0x090,
  QUEUE_DEVICE: 0x0a0,
  CONFIG_GENERATION: 0x0fc,
  CONFIG: 0x100,
} as const;
/** "virt", little-endian. */
const MAGIC = 0x7472_6976;
/** Of devices without the legacy interface. */
const VERSION = 2;
const VENDOR = 0x564f_4956;
export const VIRTIO_MMIO_BYTES = 0x1000;

/** What the driver has said of a queue. */
interface QueueRegisters {
  size: number;
  ready: boolean;
  /** Descriptor, driver and device area: low and high words. */
  readonly areas: Uint32Array;
}

/**
 * A virtio device whose registers lie in memory (VIRTIO 1.3, 4.2, without the legacy interface), with one wire for its interrupts.
 *
 * @example
 * const model = new VirtioBlock(GuestMemory.ofBytes(1 << 20), new MemoryBackend(1 << 20), () => {});
 * const registers = new VirtioMmio({ type: 2, queues: 1, configBytes: 60, classCode: 0x010000, model }, () => {});
 * registers.read(0, 4); // 0x74726976n
 */
export class VirtioMmio implements RegisterBlock {
  readonly #description: VirtioDescription;
  readonly #setWire: (asserted: boolean) => void;
  #queues: QueueRegisters[] = [];
  #deviceSelect = 0;
  #driverSelect = 0;
  #queueSelect = 0;
  #interrupts = 0;
  /** Queues whose work goes on in another turn. */
  readonly #unfinished = new Set<number>();

  /** `setWire`: the level of its interrupt, told when it changes. */
  constructor(description: VirtioDescription, setWire: (asserted: boolean) => void) {
    requireObject('VirtioMmio', 'description', description);
    requireInteger('VirtioMmio', 'queues', description.queues, 1, 0xffff);
    requireObject('VirtioMmio', 'model', description.model, 'device model', ['readConfig']);
    if (typeof setWire !== 'function') throw new TypeError('VirtioMmio: setWire is no function');
    this.#description = description;
    this.#setWire = setWire;
    this.#clear();
  }

  /** What the device calls with a queue's number, or CONFIG_INTERRUPT. */
  interrupt(source: number): void {
    requireNumber('VirtioMmio', 'source', source);
    this.#setInterrupts(this.#interrupts | (source === CONFIG_INTERRUPT ? Isr.CONFIG : Isr.QUEUE));
  }

  read(offset: number, bytes: number): bigint {
    requireAccess('VirtioMmio', offset, bytes);
    if (offset >= REG.CONFIG) {
      const value = new DataView(new ArrayBuffer(8));
      this.#description.model.readConfig(offset - REG.CONFIG, new Uint8Array(value.buffer, 0, bytes));
      return value.getBigUint64(0, true);
    }
    // 4.2.2.2: registers are read and written whole.
    return bytes === 4 ? BigInt(this.#register(offset) >>> 0) : 0n;
  }

  #register(offset: number): number {
    const { type, model } = this.#description;
    const queue = this.#queues[this.#queueSelect];
    switch (offset) {
      case REG.MAGIC:
        return MAGIC;
      case REG.VERSION:
        return VERSION;
      case REG.DEVICE_ID:
        return type;
      case REG.VENDOR_ID:
        return VENDOR;
      case REG.DEVICE_FEATURES:
        return featureWord(model.device.offeredFeatures, this.#deviceSelect);
      case REG.QUEUE_SIZE_MAX:
        return queue === undefined ? 0 : model.device.queueSize;
      case REG.QUEUE_READY:
        return Number(queue?.ready ?? false);
      case REG.INTERRUPT_STATUS:
        return this.#interrupts;
      case REG.STATUS:
        return model.device.status;
    }
    return 0;
  }

  write(offset: number, bytes: number, value: bigint): void {
    requireAccess('VirtioMmio', offset, bytes, value);
    if (offset >= REG.CONFIG) {
      const data = new DataView(new ArrayBuffer(8));
      data.setBigUint64(0, value, true);
      this.#description.model.writeConfig(offset - REG.CONFIG, new Uint8Array(data.buffer, 0, bytes));
    } else if (bytes === 4) this.#setRegister(offset, Number(value & 0xffff_ffffn));
  }

  #setRegister(offset: number, value: number): void {
    const { device } = this.#description.model;
    const queue = this.#queues[this.#queueSelect];
    switch (offset) {
      case REG.DEVICE_FEATURES_SEL:
        this.#deviceSelect = value;
        return;
      case REG.DRIVER_FEATURES_SEL:
        this.#driverSelect = value;
        return;
      case REG.DRIVER_FEATURES:
        device.driverFeatures = withFeatureWord(device.driverFeatures, this.#driverSelect, value);
        return;
      case REG.QUEUE_SEL:
        this.#queueSelect = value;
        return;
      case REG.QUEUE_SIZE:
        if (queue !== undefined && !queue.ready) queue.size = value;
        return;
      case REG.QUEUE_READY:
        if (queue !== undefined) this.#setReady(queue, value === 1);
        return;
      case REG.QUEUE_NOTIFY:
        if (value < this.#queues.length && !this.#unfinished.has(value)) this.#run(value);
        return;
      case REG.INTERRUPT_ACK:
        this.#setInterrupts(this.#interrupts & ~value);
        return;
      case REG.STATUS:
        device.status = value;
        if (value === 0) this.#clear();
        return;
    }
    this.#setArea(offset, value);
  }

  #setReady(queue: QueueRegisters, ready: boolean): void {
    const { device } = this.#description.model;
    if (ready && !queue.ready) queue.ready = device.setQueue(this.#queueSelect, setupOf(queue));
    else if (!ready) {
      device.setQueue(this.#queueSelect, null);
      queue.ready = false;
    }
  }

  #setArea(offset: number, value: number): void {
    const queue = this.#queues[this.#queueSelect];
    const which = [REG.QUEUE_DESC, REG.QUEUE_DRIVER, REG.QUEUE_DEVICE].findIndex((base) => offset === base || offset === base + 4);
    if (queue !== undefined && !queue.ready && which >= 0) queue.areas[2 * which + ((offset >> 2) & 1)] = value;
  }

  #run(queue: number): void {
    if (!this.#description.model.notify(queue)) return;
    this.#unfinished.add(queue);
    setImmediate(() => {
      if (this.#unfinished.delete(queue)) this.#run(queue);
    });
  }

  #setInterrupts(interrupts: number): void {
    const was = this.#interrupts !== 0;
    this.#interrupts = interrupts;
    if (was !== (interrupts !== 0)) this.#setWire(!was);
  }

  /** The machine is reset, and the device with it. */
  reset(): void {
    this.#description.model.device.status = 0;
    this.#clear();
  }

  #clear(): void {
    const { queues, model } = this.#description;
    this.#queues = Array.from({ length: queues }, () => ({ size: model.device.queueSize, ready: false, areas: new Uint32Array(6) }));
    this.#deviceSelect = 0;
    this.#driverSelect = 0;
    this.#queueSelect = 0;
    this.#unfinished.clear();
    this.#setInterrupts(0);
  }
}

function setupOf({ size, areas }: QueueRegisters): QueueSetup {
  const area = (which: number) => (BigInt(areas[2 * which + 1]!) << 32n) | BigInt(areas[2 * which]!);
  return { size, descriptors: area(0), driver: area(1), device: area(2) };
}
