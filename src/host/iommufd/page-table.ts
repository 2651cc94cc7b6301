import { errno, type HostError } from '../errno.ts';
import type { AttachmentPoint, DirtyVisitor, HostDevice } from '../host.ts';
import { type Handle, type IommufdContext, KernelObject, LastError } from './context.ts';
import { type IommufdDevice, own, type Place } from './device.ts';
import { type DirtyOptions, readDirty } from './dirty.ts';
import type { FaultQueue } from './fault-queue.ts';
import type { StageOneData } from './stage-one.ts';

/** struct iommu_hwpt_alloc */
const ALLOC = { bytes: 56, flags: 1, device: 2, parent: 3, id: 4, type: 6, length: 7, pointer: 8, faults: 10 } as const;
/** enum iommufd_hwpt_alloc_flags */
const NEST_PARENT = 1;
const DIRTY_TRACKING = 2;
const FAULT_ID_VALID = 4;
const FOR_PASID = 8;
/** struct iommu_hwpt_set_dirty_tracking */
const SET_DIRTY = { bytes: 16, flags: 1, hwpt: 2 } as const;

/** What every page table can be asked for. */
export interface NestedOptions {
  /** It can be attached to a PASID, or beside one. */
  readonly forPasid?: boolean;
  /** Where page requests go instead of failing. */
  readonly faults?: FaultQueue;
}

export interface PageTableOptions extends NestedOptions {
  /** Page tables of the user's can stand upon it. */
  readonly nestParent?: boolean;
  readonly dirtyTracking?: boolean;
}

const hints = 'the IOMMU cannot do what was asked for';
const OTHER_IOMMU = 'it is behind another IOMMU than the page table is made for, or cannot do what that needs';

function flagsOf({ nestParent, dirtyTracking, forPasid, faults }: PageTableOptions): number {
  return (nestParent ? NEST_PARENT : 0) | (dirtyTracking ? DIRTY_TRACKING : 0) | (faults ? FAULT_ID_VALID : 0) | (forPasid ? FOR_PASID : 0);
}

/** IOMMU_HWPT_ALLOC. Returns the new ID. @throws HostError */
function alloc(context: IommufdContext, device: Handle, parent: Handle, options: PageTableOptions, data?: StageOneData): number {
  const memory = data === undefined ? null : context.port.allocate(data.bytes.length);
  if (data !== undefined && memory !== null) new Uint8Array(memory.buffer).set(data.bytes);
  try {
    return context.control(
      'IOMMU_HWPT_ALLOC',
      ALLOC.bytes,
      (command) => {
        const { words } = command;
        words[ALLOC.flags] = flagsOf(options);
        words[ALLOC.device] = device.id;
        words[ALLOC.parent] = parent.id;
        words[ALLOC.faults] = options.faults?.id ?? 0;
        if (data === undefined || memory === null) return;
        words[ALLOC.type] = data.type;
        words[ALLOC.length] = data.bytes.length;
        command.set64(ALLOC.pointer, memory.address);
      },
      hints,
    )[ALLOC.id];
  } finally {
    memory?.release();
  }
}

/** A page table that a device can be attached to instead of a space. */
abstract class PageTable extends KernelObject implements AttachmentPoint {
  readonly forPasid: boolean;
  readonly #last = new LastError();

  constructor(context: IommufdContext, id: number, { forPasid = false }: NestedOptions) {
    super(context, id);
    this.forPasid = forPasid;
  }

  /**
   * Attaches the device, or replaces what it was attached to with no moment in between. `as`: see Attachable.attach; what stands behind it settles the
   * device when this fails. Returns 0 or a negative errno.
   */
  attach(device: HostDevice, as: Place = this): number {
    this.context.calls.attach++;
    const result = own(device).attach(this, as);
    if (result < 0 && as === this) own(device).settle();
    const hint = result === -errno.EINVAL ? `${device.name}: ${OTHER_IOMMU}` : undefined;
    return result < 0 ? this.#last.set('VFIO_DEVICE_ATTACH_IOMMUFD_PT', result, hint) : 0;
  }

  /** The device's requests are blocked. Returns 0 or a negative errno; of a device that is attached elsewhere -EINVAL. */
  detach(device: HostDevice, as: Place = this): number {
    if (device.attachment !== as) return this.#last.set('VFIO_DEVICE_DETACH_IOMMUFD_PT', -errno.EINVAL);
    this.context.calls.attach++;
    const result = own(device).detach();
    return result < 0 ? this.#last.set('VFIO_DEVICE_DETACH_IOMMUFD_PT', result) : 0;
  }

  /** The same for one PASID of the device. */
  attachPasid(device: IommufdDevice, pasid: number): number {
    this.context.calls.attach++;
    const result = device.attachPasid(pasid, this);
    return result < 0 ? this.#last.set('VFIO_DEVICE_ATTACH_IOMMUFD_PT', result) : 0;
  }

  /** Of the last attachment that failed. */
  get error(): HostError | null {
    return this.#last.error;
  }
}

/** A page table that the kernel fills from a space. */
export class KernelPageTable extends PageTable {
  /** It can remember what is written. */
  readonly tracksDirty: boolean;

  /** @throws HostError EOPNOTSUPP when the IOMMU cannot do what the options ask for. */
  constructor(context: IommufdContext, device: Handle, space: Handle, options: PageTableOptions) {
    super(context, alloc(context, device, space, options), options);
    this.tracksDirty = options.dirtyTracking ?? false;
  }

  /** From now on written pages are remembered, or no longer. Starting forgets what was. @throws HostError */
  setDirtyTracking(on: boolean): void {
    this.context.control('IOMMU_HWPT_SET_DIRTY_TRACKING', SET_DIRTY.bytes, (command) => {
      command.words[SET_DIRTY.flags] = on ? 1 : 0;
      command.words[SET_DIRTY.hwpt] = this.id;
    });
  }

  /** Visits the pages of [first, first + pages) written since they were last asked for, in ascending runs. @throws HostError */
  readDirty(first: number, pages: number, visit: DirtyVisitor, options: DirtyOptions = {}): void {
    readDirty(this.context, this, { first, pages, ...options }, visit);
  }
}

/** A page table that lies in the user's memory, in the hardware's format. */
export class StageOne extends PageTable {
  /** @throws HostError EINVAL or EIO for data that the hardware cannot take, EOPNOTSUPP for a format that it has not. */
  constructor(context: IommufdContext, device: Handle, parent: Handle, data: StageOneData, options: NestedOptions) {
    super(context, alloc(context, device, parent, options, data), options);
  }
}
