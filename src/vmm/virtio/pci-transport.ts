import { requireInteger, requireNumber, requireObject } from '../../memory/arguments.ts';
import { CONFIG_INTERRUPT } from '../../virtqueue/index.ts';
import { type Capability, integratedEndpoint, msix, powerManagement, vendor } from '../pci/capabilities.ts';
import type { ConfigField } from '../pci/config-space.ts';
import { PciFunction, type PciSurroundings, withReset } from '../pci/function.ts';
import type { RegisterBlock } from '../pci/registers.ts';
import { CommonConfig } from './common-config.ts';
import type { VirtioDescription } from './model.ts';
import { CAPABILITY, COMMON, Isr, NO_VECTOR, Structure, VIRTIO_DEVICE, VIRTIO_VENDOR } from './spec.ts';

/** Places in BAR 0, a page each, so that a VMM can map one by itself. */
const PLACE = { COMMON: 0x0000, ISR: 0x1000, DEVICE: 0x2000, NOTIFY: 0x3000, TABLE: 0x4000, PENDING: 0x5000 } as const;
const BAR_BYTES = 0x8000;
/** Bytes between two queues' notification registers. */
const NOTIFY_MULTIPLIER = 4;
/** Interface that has neither legacy registers nor a legacy driver. */
const REVISION = 1;

/** The fields of a structure's capability (4.1.4); everything is in BAR 0. */
function structureFields(kind: number, offset: number, length: number): readonly ConfigField[] {
  return [
    { name: 'cfg_type', at: CAPABILITY.TYPE, bytes: 1, value: kind },
    { name: 'bar', at: CAPABILITY.BAR, bytes: 1, value: 0 },
    { name: 'offset', at: CAPABILITY.OFFSET, bytes: 4, value: offset },
    { name: 'length', at: CAPABILITY.LENGTH, bytes: 4, value: length },
  ];
}

function structure(kind: number, offset: number, length: number): Capability {
  return vendor(structureFields(kind, offset, length), CAPABILITY.BYTES);
}

/** 4.1.4.4 */
function notification(offset: number, length: number): Capability {
  const multiplier: ConfigField = { name: 'notify_off_multiplier', at: CAPABILITY.MULTIPLIER, bytes: 4, value: NOTIFY_MULTIPLIER };
  return vendor([...structureFields(Structure.NOTIFY, offset, length), multiplier], CAPABILITY.NOTIFY_BYTES);
}

/** 4.1.4.9: a window on BARs for software that cannot reach them, such as firmware before it has given them addresses. */
function configurationAccess(): Capability {
  const { BAR, OFFSET, LENGTH, CONFIG_DATA } = CAPABILITY;
  const fields: readonly ConfigField[] = [
    { name: 'cfg_type', at: CAPABILITY.TYPE, bytes: 1, value: Structure.CONFIG },
    { name: 'bar', at: BAR, bytes: 1, writable: 0xff },
    { name: 'offset', at: OFFSET, bytes: 4, writable: -1 },
    { name: 'length', at: LENGTH, bytes: 4, writable: -1 },
    { name: 'pci_cfg_data', at: CONFIG_DATA, bytes: 4, writable: -1 },
  ];
  return { ...vendor(fields, CAPABILITY.CONFIG_BYTES), barWindow: { bar: BAR, offset: OFFSET, length: LENGTH, data: CONFIG_DATA } };
}

/**
 * A virtio device behind a PCI function (VIRTIO 1.3, 4.1, without the legacy interface): common, notification, ISR and device
 * configuration in one BAR, MSI-X with a vector for each queue and one for the configuration, or INTx.
 *
 * @example
 * const model = new VirtioBlock(GuestMemory.ofBytes(1 << 20), new MemoryBackend(1 << 20), () => {});
 * const pci = new VirtioPci({ type: 2, queues: 1, configBytes: 60, classCode: 0x010000, model }, {});
 * pci.fn.readConfig(2, 2); // 0x1042: 0x1040 and the type
 */
export class VirtioPci {
  readonly fn: PciFunction;
  readonly #description: VirtioDescription;
  readonly #common: CommonConfig;
  #isr = 0;
  /** Register accesses and notifications, for reports. */
  readonly accesses = { reads: 0, writes: 0 };
  kicks = 0;
  /** Queues whose work goes on in another turn. */
  readonly #unfinished = new Set<number>();

  constructor(description: VirtioDescription, surroundings: PciSurroundings) {
    requireObject('VirtioPci', 'description', description);
    requireObject('VirtioPci', 'surroundings', surroundings);
    const { type, queues, configBytes, classCode } = description;
    requireInteger('VirtioPci', 'queues', queues, 1, 0xffff);
    this.#description = description;
    const vectors = queues + 1;
    this.#common = new CommonConfig(description, vectors, () => this.#quiet());
    this.fn = new PciFunction(
      {
        vendor: VIRTIO_VENDOR,
        device: VIRTIO_DEVICE + type,
        subsystem: VIRTIO_DEVICE + type,
        revision: REVISION,
        classCode,
        interruptPin: 1,
        bars: [{ bytes: BAR_BYTES, registers: this.#registers() }],
        capabilities: [
          structure(Structure.COMMON, PLACE.COMMON, COMMON.BYTES),
          notification(PLACE.NOTIFY, queues * NOTIFY_MULTIPLIER),
          structure(Structure.ISR, PLACE.ISR, 1),
          // Drivers refuse an empty one.
          ...(configBytes > 0 ? [structure(Structure.DEVICE, PLACE.DEVICE, configBytes)] : []),
          configurationAccess(),
          integratedEndpoint(true),
          powerManagement(),
          msix(vectors, { bar: 0, offset: PLACE.TABLE }, { bar: 0, offset: PLACE.PENDING }),
        ],
      },
      withReset(surroundings, () => this.#reset()),
    );
  }

  /** What the device calls with a queue's number, or CONFIG_INTERRUPT (4.1.5.1.2, 4.1.5.1.3). */
  interrupt(source: number): void {
    requireNumber('VirtioPci', 'source', source);
    const vector = source === CONFIG_INTERRUPT ? this.#common.configVector : this.#common.vectorOf(source);
    if (this.fn.msixEnabled) {
      if (vector !== NO_VECTOR) this.fn.signal(vector);
      return;
    }
    this.#isr |= source === CONFIG_INTERRUPT ? Isr.CONFIG : Isr.QUEUE;
    this.fn.setIntx(true);
  }

  /** The function is reset, and the device with it (2.4). */
  #reset(): void {
    this.#description.model.device.status = 0;
    this.#common.clear();
    this.#quiet();
  }

  #quiet(): void {
    this.#isr = 0;
    this.#unfinished.clear();
    this.fn.setIntx(false);
  }

  #registers(): RegisterBlock {
    const { model, configBytes, queues } = this.#description;
    return {
      read: (offset, bytes) => {
        this.accesses.reads++;
        if (offset < PLACE.ISR) return this.#common.read(offset, bytes);
        if (offset === PLACE.ISR) return this.#readIsr();
        const at = offset - PLACE.DEVICE;
        if (at < 0 || at >= configBytes) return 0n;
        const buffer = new DataView(new ArrayBuffer(8));
        model.readConfig(at, new Uint8Array(buffer.buffer, 0, bytes));
        return buffer.getBigUint64(0, true);
      },
      write: (offset, bytes, value) => {
        this.accesses.writes++;
        if (offset < PLACE.ISR) this.#common.write(offset, bytes, value);
        else if (offset >= PLACE.NOTIFY && offset < PLACE.NOTIFY + queues * NOTIFY_MULTIPLIER) this.#notify((offset - PLACE.NOTIFY) >> 2);
        else if (offset >= PLACE.DEVICE && offset < PLACE.DEVICE + configBytes) {
          const buffer = new DataView(new ArrayBuffer(8));
          buffer.setBigUint64(0, value, true);
          model.writeConfig(offset - PLACE.DEVICE, new Uint8Array(buffer.buffer, 0, bytes));
        }
      },
    };
  }

  /** Reading it says that the driver has seen it (4.1.4.5). */
  #readIsr(): bigint {
    const isr = this.#isr;
    this.#isr = 0;
    this.fn.setIntx(false);
    return BigInt(isr);
  }

  #notify(queue: number): void {
    this.kicks++;
    if (!this.#unfinished.has(queue)) this.#run(queue);
  }

  #run(queue: number): void {
    if (!this.#description.model.notify(queue)) return;
    this.#unfinished.add(queue);
    setImmediate(() => {
      // A reset in between leaves nothing to go on with.
      if (this.#unfinished.delete(queue)) this.#run(queue);
    });
  }
}
