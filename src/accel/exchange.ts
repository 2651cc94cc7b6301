import { errno } from '../host/errno.ts';
import { NO_PASID } from '../target/target.ts';
import type { Backings } from './backings.ts';
import type { Chooser } from './chooser.ts';
import type { Backing, DeviceGroup } from './device-group.ts';
import type { Path } from './path.ts';
import type { Placement } from './placement.ts';

/** Of a new path at most, 2^28 table entries or more: a guest's tables may lead to themselves. What lies behind them follows, as behind a first attach. */
const SLICES = 1 << 10;

/** What changing a path takes; groups that can be neither on the new one nor where they were are given up, with the reason. */
export interface ExchangeParts {
  readonly backings: Backings;
  readonly chooser: Chooser;
  readonly placement: Pick<Placement, 'giveUp' | 'giveUpAll'>;
}

/**
 * Moves the devices of a backing to the path that its space has by the wish of now. Returns 0, or a negative errno: then it stays where it was.
 */
export function changePathOf(before: Backing, { backings, chooser, placement }: ExchangeParts): number {
  // What single PASIDs can have, devices can as well.
  const groups = [...before.groups];
  const group = groups.find(({ members: [{ pasid }] }) => pasid === NO_PASID) ?? groups[0];
  const [{ stage }] = group.members;
  const { served, choice } = chooser.choose(before.space, group, stage);
  if (served === null) return backings.unserved(choice);
  if (choice.path === before.choice.path) return 0;
  const after = backings.make(before.space, group, stage, served, choice);
  if (typeof after === 'number') return after;
  const losses: DeviceGroup[] = [];
  let result = populate(after.path) || exchange(before, after, losses);
  if (result < 0) backings.error = after.path.error;
  // What cannot see goes back as it came.
  else if (!backings.sees(after)) {
    const blindness = backings.error;
    result = exchange(after, before, losses) || -errno.ENOSPC;
    backings.error = blindness;
  }
  if (result === 0) backings.decide(after, before);
  else if (after.groups.size === 0) {
    backings.decide(before, after);
    for (const other of losses) placement.giveUp(other, before, before.path.error);
  } else {
    // No way back, and nobody can stay on what cannot see.
    backings.decide(after, before);
    placement.giveUpAll(after, backings.error);
  }
  return result;
}

/**
 * All that the devices will find, before any of them comes: what only later slices map would fail meanwhile. Returns 0 or a negative errno: some of it
 * cannot be had.
 */
function populate(path: Path): number {
  let result = path.populate?.() ?? 0;
  for (let slices = 1; result === 0 && path.unfinished && slices < SLICES; slices++) result = path.flush();
  return result < 0 || path.unfinished || !path.pending ? result : -(path.error?.errno ?? errno.EIO);
}

/**
 * Moves the devices of one backing to another of the same space, which has all mappings already: each is attached to the new one in the place of the old
 * (capability `replace`), so none is ever without a translation, or with a stale one. Returns 0 or a negative errno: then all are back where
 * they were, but for the groups in `lost`, which the host let neither on nor back.
 */
function exchange(before: Backing, after: Backing, lost: DeviceGroup[]): number {
  for (const group of before.groups) {
    for (const { device, endpoint, pasid, stage } of group.members) {
      const result = after.path.attach(device, { endpoint, pasid, stage });
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
  for (const { device, endpoint, pasid, reached } of group.members) {
    after.path.moved(device);
    if (result === 0) result = before.path.attach(device, { endpoint, pasid, stage: reached });
  }
  return result === 0;
}
