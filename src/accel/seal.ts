import type { HostDevice } from '../host/host.ts';

/** The same for devices that may share a group: one that could only be closed can leave the others where they were, so all are asked again. */
export function sealAll(devices: readonly HostDevice[]): void {
  for (const device of [...devices, ...devices]) seal(device);
}

/** Whatever failed before, the device reaches nothing afterwards: it is detached from wherever it is, or, when the kernel refuses, closed. */
export function seal(device: HostDevice): void {
  if (device.attachment !== null && device.detach() < 0) device.close();
}
