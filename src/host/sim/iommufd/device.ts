import { errno } from '../../errno.ts';
import type { SimDevice, SimGroup } from '../device.ts';
import type { IommufdContext, KernelObject } from './context.ts';
import { Ioas } from './ioas.ts';
import { type Hwpt, PagingHwpt } from './page-tables.ts';

/** Binding and attaching (the kernel's device.c): the devices of one IOMMU group always share one page table. */

interface GroupState {
  hwpt: Hwpt | null;
  readonly attached: Set<DeviceObject>;
}

const groups = new WeakMap<IommufdContext, Map<SimGroup, GroupState>>();

function groupState(context: IommufdContext, group: SimGroup): GroupState {
  const states = groups.get(context) ?? new Map<SimGroup, GroupState>();
  groups.set(context, states);
  const state = states.get(group) ?? { hwpt: null, attached: new Set() };
  states.set(group, state);
  return state;
}

/** A device bound to an iommufd. */
export class DeviceObject implements KernelObject {
  readonly kind = 'device';
  id = 0;
  users = 1;
  readonly device: SimDevice;
  readonly #context: IommufdContext;
  readonly #state: GroupState;

  constructor(context: IommufdContext, device: SimDevice) {
    this.#context = context;
    this.device = device;
    this.#state = groupState(context, device.group);
  }

  get attached(): boolean {
    return this.#state.attached.has(this);
  }

  /** VFIO_DEVICE_ATTACH_IOMMUFD_PT: attaches, or replaces what was attached. Returns the HWPT's ID or a negative errno. */
  attach(id: number): number {
    const object = this.#context.any(id);
    if (object === undefined) return -errno.ENOENT;
    const set = this.attached ? this.#replace.bind(this) : this.#attach.bind(this);
    if (object instanceof Ioas) return this.#attachToIoas(object, set);
    if (!isHwpt(object)) return -errno.EINVAL;
    const failed = set(object);
    return failed < 0 ? failed : object.id;
  }

  /** Shares an automatic page table of the IOAS that takes the device, or makes one. */
  #attachToIoas(ioas: Ioas, set: (hwpt: Hwpt) => number): number {
    for (const hwpt of ioas.pageTables) {
      if (!(hwpt instanceof PagingHwpt) || !hwpt.automatic) continue;
      const failed = set(hwpt);
      if (failed === -errno.EINVAL) continue;
      return failed < 0 ? failed : hwpt.id;
    }
    const made = PagingHwpt.create(this.#context, ioas, this.device, { automatic: true });
    if (typeof made === 'number') return made;
    const failed = set(made);
    if (failed === 0) return made.id;
    this.#context.remove(made.id);
    return failed;
  }

  #attach(hwpt: Hwpt): number {
    const state = this.#state;
    if (state.hwpt !== null && state.hwpt !== hwpt) return -errno.EINVAL;
    const refused = hwpt.accepts(this.device) || reserveAll(hwpt.ioas, [this.device]);
    if (refused < 0) return refused;
    state.attached.add(this);
    this.users++;
    hwpt.users++;
    this.#install(hwpt);
    return 0;
  }

  /** All devices of the group move at once, and none sees a moment without translation. */
  #replace(hwpt: Hwpt): number {
    const state = this.#state;
    const old = state.hwpt as Hwpt;
    if (old === hwpt) return 0;
    const devices = [...state.attached].map(({ device }) => device);
    const moves = hwpt.ioas !== null && hwpt.ioas !== old.ioas;
    const refused = hwpt.accepts(this.device) || (moves ? reserveAll(hwpt.ioas, devices) : 0);
    if (refused < 0) return refused;
    hwpt.users += state.attached.size;
    this.#install(hwpt);
    if (old.ioas !== hwpt.ioas) for (const device of devices) old.ioas?.table.unreserve(device);
    for (const _ of devices) putHwpt(this.#context, old);
    return 0;
  }

  #install(hwpt: Hwpt | null): void {
    this.#state.hwpt = hwpt;
    for (const device of this.device.group.devices) device.translation = hwpt;
  }

  /** The device's requests are blocked again, when it is the group's last. */
  detach(): void {
    const state = this.#state;
    const hwpt = state.hwpt;
    if (hwpt === null || !state.attached.delete(this)) return;
    this.users--;
    if (state.attached.size === 0) this.#install(null);
    hwpt.ioas?.table.unreserve(this.device);
    putHwpt(this.#context, hwpt);
  }

  destroy(): void {
    const { group } = this.device;
    if (group.devices.every((device) => device === this.device || !boundTo(this.#context, device))) group.owner = null;
  }

  save(): unknown {
    return { device: this.device.name, hwpt: this.attached ? (this.#state.hwpt?.id ?? null) : null };
  }
}

function isHwpt(object: KernelObject): object is Hwpt {
  return object.kind === 'hwpt-paging' || object.kind === 'hwpt-nested';
}

function boundTo(context: IommufdContext, device: SimDevice): boolean {
  return context.list(DeviceObject).some((object) => object.device === device);
}

/** Takes what the devices cannot use out of the IOAS: all of it or nothing. */
function reserveAll(ioas: Ioas | null, devices: readonly SimDevice[]): number {
  if (ioas === null) return 0;
  for (const device of devices) {
    for (const range of device.iommu.config.reserved) {
      const failed = ioas.table.reserve(range, device);
      if (failed === 0) continue;
      for (const undo of devices) ioas.table.unreserve(undo);
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
