import { errno } from '../../errno.ts';
import type { SimDevice, SimGroup } from '../device.ts';
import type { BoundDevice, IommufdContext, KernelObject } from './context.ts';
import { Ioas } from './ioas.ts';
import { type Hwpt, PagingHwpt } from './page-tables.ts';

/** Binding and attaching (the kernel's device.c): the devices of one IOMMU group always share one page table. */

/** An attachment without a PASID. */
export const NO_PASID = -1;

/** What the devices of a group are attached to, with one PASID or without. */
interface Attachment {
  hwpt: Hwpt;
  readonly devices: Set<DeviceObject>;
}

type GroupState = Map<number, Attachment>;

const groups = new WeakMap<IommufdContext, Map<SimGroup, GroupState>>();

function groupState(context: IommufdContext, group: SimGroup): GroupState {
  const states = groups.get(context) ?? new Map<SimGroup, GroupState>();
  groups.set(context, states);
  const state = states.get(group) ?? new Map();
  states.set(group, state);
  return state;
}

/** A device bound to an iommufd. */
export class DeviceObject implements BoundDevice {
  readonly kind = 'device';
  id = 0;
  users = 1;
  readonly device: SimDevice;
  virtualId: bigint | undefined;
  slice: KernelObject | null = null;
  /** The vDEVICE that stands for it, and goes with it. */
  virtual: KernelObject | null = null;
  readonly #context: IommufdContext;
  readonly #state: GroupState;

  constructor(context: IommufdContext, device: SimDevice) {
    this.#context = context;
    this.device = device;
    this.#state = groupState(context, device.group);
  }

  /** iommufd_device_attach: the HWPT's ID, or a negative errno. */
  attach(id: number, pasid: number): number {
    return this.#change(
      id,
      (hwpt) => this.#attach(hwpt, pasid),
      () => this.detach(pasid),
    );
  }

  /** iommufd_device_replace */
  replace(id: number, pasid: number): number {
    return this.#change(id, (hwpt) => this.#replace(hwpt, pasid));
  }

  /** `undo`: it is attached to a table that is made for it first, and the table is filled second. */
  #change(id: number, set: (hwpt: Hwpt) => number, undo?: () => void): number {
    const object = this.#context.any(id);
    if (object === undefined) return -errno.ENOENT;
    if (object instanceof Ioas) return this.#changeToIoas(object, set, undo);
    if (!isHwpt(object)) return -errno.EINVAL;
    const failed = set(object);
    return failed < 0 ? failed : object.id;
  }

  /** Shares an automatic page table of the IOAS that takes the device, or makes one (iommufd_device_auto_get_domain). */
  #changeToIoas(ioas: Ioas, set: (hwpt: Hwpt) => number, undo?: () => void): number {
    for (const hwpt of ioas.pageTables) {
      if (!(hwpt instanceof PagingHwpt) || !hwpt.automatic) continue;
      const failed = set(hwpt);
      if (failed === -errno.EINVAL) continue;
      return failed < 0 ? failed : hwpt.id;
    }
    const made = PagingHwpt.reserve(this.#context, ioas, this.device, { automatic: true, flags: 0 });
    let failed = undo === undefined ? made.fill() : set(made);
    if (failed < 0) {
      made.abandon(this.#context);
      return failed;
    }
    failed = undo === undefined ? set(made) : made.fill();
    if (failed < 0) {
      undo?.();
      made.abandon(this.#context);
      return failed;
    }
    this.#context.publish(made);
    return made.id;
  }

  /** iommufd_hwpt_pasid_compat, and what the IOMMU core asks of a PASID; then the IOMMU's own driver. */
  #accepts(hwpt: Hwpt, pasid: number): number {
    const plain = this.#state.get(NO_PASID);
    if (pasid === NO_PASID) {
      const beside = [...this.#state.keys()].some((other) => other !== NO_PASID);
      if (!hwpt.forPasid && beside) return -errno.EINVAL;
    } else {
      if (!hwpt.forPasid || plain?.hwpt.forPasid === false) return -errno.EINVAL;
      // A PCI function without PASIDs takes any, for it never sends one; of another device firmware says that it has but one.
      const { pasidLog2, isPci } = this.device;
      if ((pasidLog2 > 0 || !isPci) && pasid >= 2 ** pasidLog2) return -errno.EINVAL;
    }
    const refused = hwpt.accepts(this, pasid);
    // Such a driver finds out too late, and nobody puts back what was there (__iommu_group_set_domain_internal: not for the device that failed).
    if (refused < 0 && pasid === NO_PASID && this.#isBlockedFirst(hwpt)) this.device.translation = null;
    return refused;
  }

  /** A table of another kind of IOMMU never comes to the driver. */
  #isBlockedFirst({ iommu }: Hwpt): boolean {
    const { nesting } = this.device.iommu.config;
    return nesting?.blocksFirst === true && iommu.config.nesting?.infoType === nesting.infoType;
  }

  #attach(hwpt: Hwpt, pasid: number): number {
    const attachment = this.#state.get(pasid);
    if (attachment?.devices.has(this)) return -errno.EBUSY;
    if (attachment !== undefined && attachment.hwpt !== hwpt) return -errno.EINVAL;
    const reserve = pasid === NO_PASID ? reserveAll(hwpt.ioas, [this.device]) : 0;
    if (reserve < 0) return reserve;
    const refused = attachment === undefined ? this.#accepts(hwpt, pasid) : 0;
    if (refused < 0) {
      if (pasid === NO_PASID) hwpt.ioas.table.ranges.unreserve(this.device);
      return refused;
    }
    if (attachment === undefined) this.#state.set(pasid, { hwpt, devices: new Set([this]) });
    else attachment.devices.add(this);
    this.users++;
    hwpt.users++;
    hwpt.enter?.(this);
    this.#install(hwpt, pasid);
    return 0;
  }

  /** All devices of the group move at once, and none sees a moment without translation. */
  #replace(hwpt: Hwpt, pasid: number): number {
    const attachment = this.#state.get(pasid);
    if (attachment === undefined || !attachment.devices.has(this)) return -errno.EINVAL;
    const old = attachment.hwpt;
    if (old === hwpt) return 0;
    const devices = [...attachment.devices].map(({ device }) => device);
    const moves = pasid === NO_PASID && hwpt.ioas !== old.ioas;
    const refused = (moves ? reserveAll(hwpt.ioas, devices) : 0) || this.#accepts(hwpt, pasid);
    if (refused < 0) {
      // The kernel gives back what it has taken, or had before.
      if (pasid === NO_PASID) for (const device of devices) hwpt.ioas.table.ranges.unreserve(device);
      return refused;
    }
    attachment.hwpt = hwpt;
    hwpt.users += devices.length;
    for (const device of attachment.devices) hwpt.enter?.(device);
    this.#install(hwpt, pasid);
    for (const device of devices) {
      if (moves) old.ioas.table.ranges.unreserve(device);
      old.faults?.leave(old, device.name);
      putHwpt(this.#context, old);
    }
    return 0;
  }

  #install(hwpt: Hwpt | null, pasid: number): void {
    for (const device of this.device.group.devices) {
      if (pasid === NO_PASID) device.translation = hwpt;
      else if (hwpt !== null) device.pasids.set(pasid, hwpt);
      else device.pasids.delete(pasid);
    }
  }

  /** The device's requests are blocked again, when it is the group's last. */
  detach(pasid: number): void {
    const attachment = this.#state.get(pasid);
    if (attachment === undefined || !attachment.devices.delete(this)) return;
    const { hwpt } = attachment;
    this.users--;
    if (attachment.devices.size === 0) {
      this.#state.delete(pasid);
      this.#install(null, pasid);
    }
    if (pasid === NO_PASID) hwpt.ioas.table.ranges.unreserve(this.device);
    hwpt.faults?.leave(hwpt, this.device.name);
    putHwpt(this.#context, hwpt);
  }

  detachAll(): void {
    for (const pasid of [...this.#state.keys()]) this.detach(pasid);
  }

  /** iommufd_device_unbind: with its vDEVICE, whose ID nobody else gets. */
  unbind(): void {
    if (this.virtual !== null) this.#context.bury(this.virtual.id);
    this.users--;
    this.#context.remove(this.id);
  }

  destroy(): void {
    const { group } = this.device;
    if (group.devices.every((device) => device === this.device || this.#context.bound(device.name) === undefined)) group.owner = null;
  }

  save(): unknown {
    const attached = [...this.#state].filter(([, { devices }]) => devices.has(this)).map(([pasid, { hwpt }]) => [pasid, hwpt.id]);
    return { device: this.device.name, attached, virtualId: this.virtualId?.toString(16) ?? null };
  }
}

function isHwpt(object: KernelObject): object is Hwpt {
  return object.kind === 'hwpt-paging' || object.kind === 'hwpt-nested';
}

/** Takes what the devices cannot use out of the IOAS: all of it or nothing. */
function reserveAll(ioas: Ioas, devices: readonly SimDevice[]): number {
  for (const device of devices) {
    for (const range of device.iommu.config.reserved) {
      const failed = ioas.table.ranges.reserve(range, device);
      if (failed === 0) continue;
      for (const undo of devices) ioas.table.ranges.unreserve(undo);
      return failed;
    }
  }
  return 0;
}

/** An automatic page table goes with its last device. */
function putHwpt(context: IommufdContext, hwpt: Hwpt): void {
  hwpt.users--;
  if (hwpt instanceof PagingHwpt && hwpt.automatic && hwpt.users === 1) context.remove(hwpt.id);
}
