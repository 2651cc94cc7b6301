import { errno, HostError } from './errno.ts';
import type { HostDevice, HostSpace, IovaRange } from './host.ts';

/** The first of the ranges that begins below the lowest or ends above the highest page of the apertures; what they leave out in between does not count. */
export function outOfReach(apertures: readonly IovaRange[], ranges: readonly IovaRange[]): IovaRange | undefined {
  const lowest = apertures.reduce((low, { first }) => Math.min(low, first), Number.POSITIVE_INFINITY);
  const highest = apertures.reduce((high, { last }) => Math.max(high, last), -1);
  return ranges.find(({ first, last }) => first < lowest || last > highest);
}

/** What both have. Both ascending, and so is the answer. */
function common(a: readonly IovaRange[], b: readonly IovaRange[]): IovaRange[] {
  return a.flatMap((one) =>
    b
      .filter(({ first, last }) => first <= one.last && last >= one.first)
      .map(({ first, last }) => ({ first: Math.max(first, one.first), last: Math.min(last, one.last) })),
  );
}

/**
 * `Host.reach` by an empty space of its own, which is closed then: the kernel knows what is reserved for a device once it is attached. `open`: what a
 * host does that has to create windows. @throws HostError
 */
export function reachThrough(
  space: HostSpace,
  device: HostDevice,
  wanted: readonly IovaRange[],
  open: () => void = () => {},
): readonly IovaRange[] {
  if (space.attach(device) < 0) {
    const error = space.error ?? new HostError('attach', errno.EIO);
    if (device.attachment === null) space.close();
    throw error;
  }
  try {
    open();
    return common(space.apertures(), wanted);
  } finally {
    leave(space, device);
  }
}

/** A device that cannot be taken out of the space is closed: what reaches an empty space is not to reach anything else by mistake. @throws HostError */
function leave(space: HostSpace, device: HostDevice): void {
  if (space.detach(device) < 0) {
    const error = space.error ?? new HostError('detach', errno.EIO);
    device.close();
    throw error;
  }
  space.close();
}
