import type { Backing, DeviceGroup } from './device-group.ts';

/**
 * Moves the devices of one backing to another of the same space, which has all mappings already: each is attached to the new one in the place of the old
 * (capability `replace`), so none is ever without a translation, or with a stale one. Returns 0 or a negative errno: then all are back where
 * they were, but for the groups in `lost`, which the host let neither on nor back.
 */
export function exchange(before: Backing, after: Backing, lost: DeviceGroup[]): number {
  for (const group of before.groups) {
    for (const { device, endpoint, stage } of group.members) {
      const result = after.path.attach(device, { endpoint, stage });
      if (result === 0) continue;
      for (const other of before.groups) if (!goBack(other, before, after)) lost.push(other);
      return result;
    }
  }
  for (const group of before.groups) {
    for (const member of group.members) {
      before.path.moved(member.device);
      member.reached = member.stage;
    }
    group.backing = after;
    after.groups.add(group);
  }
  before.groups.clear();
  return 0;
}

function goBack(group: DeviceGroup, before: Backing, after: Backing): boolean {
  let result = 0;
  for (const { device, endpoint, reached } of group.members) {
    after.path.moved(device);
    if (result === 0) result = before.path.attach(device, { endpoint, stage: reached });
  }
  return result === 0;
}
