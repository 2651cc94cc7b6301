import { errno, HostError } from '../host/errno.ts';
import type { Host, HostDevice } from '../host/host.ts';
import type { Target } from '../target/target.ts';
import type { DeviceGroup } from './device-group.ts';

interface Place {
  readonly target: Pick<Target, 'name' | 'offered' | 'confine'> | undefined;
  readonly endpoint: number;
  readonly group: DeviceGroup;
}

/**
 * A guest that may map anywhere is told, before its endpoint has a device, what the device's hardware cannot map: ranges that the host has reserved,
 * and what lies outside its windows. Devices of a group stand behind one IOMMU, so only the first is asked for. Returns what takes it back.
 * @throws HostError when the host does not say, or nothing of what the guest is offered can be mapped
 */
export function confine(host: Host, device: HostDevice, { target, endpoint, group }: Place): () => void {
  const { offered } = target ?? {};
  if (target?.confine === undefined || offered === undefined) return () => {};
  group.reach ??= host.reach(device, offered);
  const [{ first }] = offered;
  const range = { first, last: offered[offered.length - 1].last };
  if (group.reach.length === 0) throw new HostError('reach', errno.ERANGE, range, `${device.name}: the host can map nothing of it`);
  try {
    return target.confine(endpoint, group.reach);
  } catch (error) {
    if (!(error instanceof RangeError)) throw error;
    throw new HostError(
      'reach',
      errno.ERANGE,
      range,
      `${target.name} cannot tell its guest what ${device.name} does not reach: ${error.message}`,
    );
  }
}
