import type { HostDevice } from '../host/host.ts';
import { DeviceGroup } from './device-group.ts';

/** The groups of passed-through devices, by the name that the host has for them; a device without one is a group of its own. */
export class DeviceGroups {
  readonly #named = new Map<string, DeviceGroup>();

  /** Of the device, made where there is none yet. */
  of(device: HostDevice): DeviceGroup {
    const name = device.iommuGroup;
    const group = (name === null ? undefined : this.#named.get(name)) ?? new DeviceGroup(name);
    if (name !== null) this.#named.set(name, group);
    return group;
  }

  /** A device has left the group, or never came: without any it is forgotten. */
  left({ name, members }: DeviceGroup): void {
    if (members.size === 0 && name !== null) this.#named.delete(name);
  }
}
