import type { HostDevice } from '../host/host.ts';

/** Whatever failed before, the device reaches nothing afterwards: it is detached from wherever it is, or, when the kernel refuses, closed. */
export function seal(device: HostDevice): void {
  if (device.attachment !== null && device.detach() < 0) device.close();
}
