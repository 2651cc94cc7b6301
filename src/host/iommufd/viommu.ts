import { errno, HostError } from '../errno.ts';
import type { PortMemory } from '../port.ts';
import { type Handle, type IommufdContext, KernelObject } from './context.ts';
import { DescriptorQueue } from './event-queue.ts';

/** struct iommu_viommu_alloc */
const ALLOC = { bytes: 40, type: 2, device: 3, parent: 4, id: 5, length: 6, pointer: 8 } as const;
/** struct iommu_vdevice_alloc */
const VDEVICE = { bytes: 24, viommu: 1, device: 2, id: 3, virtualId: 4 } as const;
/** struct iommu_veventq_alloc */
const VEVENTQ = { bytes: 32, viommu: 2, type: 3, depth: 4, id: 5, fd: 6 } as const;
/** struct iommu_hw_queue_alloc */
const QUEUE = { bytes: 40, viommu: 2, type: 3, index: 4, id: 5, base: 6, length: 8 } as const;

/** A slice of an IOMMU for one guest: what is the guest's own is told apart by it. */
export class Viommu extends KernelObject {
  readonly #pages = new Set<PortMemory>();

  /** `data` is handed to the kernel, and what the kernel answers stands in it afterwards. @throws HostError */
  constructor(context: IommufdContext, device: Handle, parent: Handle, type: number, data?: Uint8Array) {
    super(context, allocViommu(context, device, parent, type, data));
  }

  /** The device's place on it, by the ID that the guest knows it by (SMMUv3: the virtual stream ID). @throws HostError */
  addDevice(device: BoundDevice, virtualId: bigint): Vdevice {
    return new Vdevice(this.context, this, device, virtualId);
  }

  /** Events of a type (enum iommu_veventq_type) with records of `eventBytes`; beyond `depth` they are lost. @throws HostError */
  createEventQueue(type: number, eventBytes: number, depth: number): EventQueue {
    return new EventQueue(this.context, this, { type, eventBytes, depth });
  }

  /** A queue that the hardware reads at a guest-physical address (enum iommu_hw_queue_type). @throws HostError */
  createHardwareQueue(type: number, index: number, base: bigint, bytes: number): HardwareQueue {
    return new HardwareQueue(this.context, this, { type, index, base, bytes });
  }

  /** Maps a page of the hardware's, where the kernel's answer says that it is. It must be released before the vIOMMU. @throws HostError */
  mapPage(offset: bigint, bytes: number): PortMemory {
    const memory = this.context.port.mmap(this.context.fd, bytes, offset);
    if (typeof memory === 'number') throw new HostError(`mmap of /dev/iommu at 0x${offset.toString(16)}`, memory);
    this.#pages.add(memory);
    return memory;
  }

  override close(): void {
    this.#unmapPages();
    super.close();
  }

  protected override release(): void {
    this.#unmapPages();
  }

  #unmapPages(): void {
    for (const page of this.#pages) page.release();
    this.#pages.clear();
  }
}

function allocViommu(context: IommufdContext, device: Handle, parent: Handle, type: number, data?: Uint8Array): number {
  const memory = data === undefined ? null : context.port.allocate(data.length);
  if (data !== undefined && memory !== null) new Uint8Array(memory.buffer).set(data);
  try {
    const words = context.control('IOMMU_VIOMMU_ALLOC', ALLOC.bytes, (command) => {
      command.words[ALLOC.type] = type;
      command.words[ALLOC.device] = device.id;
      command.words[ALLOC.parent] = parent.id;
      if (data === undefined || memory === null) return;
      command.words[ALLOC.length] = data.length;
      command.set64(ALLOC.pointer, memory.address);
    });
    if (data !== undefined && memory !== null) data.set(new Uint8Array(memory.buffer, 0, data.length));
    return words[ALLOC.id];
  } finally {
    memory?.release();
  }
}

/** A device of the kernel's table that may be closed before what stands for it. */
export interface BoundDevice extends Handle {
  readonly closed?: boolean;
}

/** A device on a vIOMMU. */
export class Vdevice extends KernelObject {
  readonly virtualId: bigint;
  readonly #device: BoundDevice;

  constructor(context: IommufdContext, viommu: Handle, device: BoundDevice, virtualId: bigint) {
    const words = context.control(
      'IOMMU_VDEVICE_ALLOC',
      VDEVICE.bytes,
      (command) => {
        command.words[VDEVICE.viommu] = viommu.id;
        command.words[VDEVICE.device] = device.id;
        command.set64(VDEVICE.virtualId, virtualId);
      },
      `virtual ID 0x${virtualId.toString(16)}`,
    );
    super(context, words[VDEVICE.id]);
    this.#device = device;
    this.virtualId = virtualId;
  }

  /** It goes with its device: its ID may be another object's then. */
  override close(): void {
    if (this.#device.closed) this.dispose();
    else super.close();
  }
}

const HEADER_BYTES = 8;
const LOST_EVENTS = 1;
const SEQUENCE_MASK = 0x7fff_ffff;

/** An event of the hardware's for the guest. */
export interface VirtualEvent {
  /** Events that were lost right before this one. */
  readonly lost: number;
  /** The record in the type's own format; null: events were lost, and none has come since. */
  readonly data: Uint8Array | null;
}

export class EventQueue extends DescriptorQueue {
  readonly #eventBytes: number;
  #next = 0;

  constructor(context: IommufdContext, viommu: Handle, { type, eventBytes, depth }: { type: number; eventBytes: number; depth: number }) {
    const words = context.control('IOMMU_VEVENTQ_ALLOC', VEVENTQ.bytes, (command) => {
      command.words[VEVENTQ.viommu] = viommu.id;
      command.words[VEVENTQ.type] = type;
      command.words[VEVENTQ.depth] = depth;
    });
    super(context, words[VEVENTQ.id], words[VEVENTQ.fd]);
    this.#eventBytes = eventBytes;
  }

  /** Those that wait now. Sequence numbers that are missing count as lost. @throws HostError */
  read(): VirtualEvent[] {
    const view = this.readBytes();
    const events: VirtualEvent[] = [];
    for (let at = 0; at + HEADER_BYTES <= view.byteLength; ) {
      const lostHere = (view.getUint32(at, true) & LOST_EVENTS) !== 0;
      const sequence = view.getUint32(at + 4, true);
      at += HEADER_BYTES;
      const missing = (sequence - this.#next) & SEQUENCE_MASK;
      this.#next = (sequence + 1) & SEQUENCE_MASK;
      if (lostHere) {
        events.push({ lost: missing + 1, data: null });
        continue;
      }
      if (at + this.#eventBytes > view.byteLength)
        throw new HostError('read of an iommufd queue', errno.EIO, undefined, 'records of another size');
      events.push({ lost: missing, data: new Uint8Array(view.buffer, at, this.#eventBytes).slice() });
      at += this.#eventBytes;
    }
    return events;
  }
}

/** A queue that the hardware reads by itself. */
export class HardwareQueue extends KernelObject {
  constructor(
    context: IommufdContext,
    viommu: Handle,
    { type, index, base, bytes }: { readonly type: number; readonly index: number; readonly base: bigint; readonly bytes: number },
  ) {
    const words = context.control('IOMMU_HW_QUEUE_ALLOC', QUEUE.bytes, (command) => {
      command.words[QUEUE.viommu] = viommu.id;
      command.words[QUEUE.type] = type;
      command.words[QUEUE.index] = index;
      command.set64(QUEUE.base, base);
      command.set64(QUEUE.length, BigInt(bytes));
    });
    super(context, words[QUEUE.id]);
  }
}
