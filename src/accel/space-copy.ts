import { hostErrorOf } from '../host/errno.ts';
import type { Host, HostSpace, SpaceRequirements } from '../host/host.ts';
import { PFN_LIMIT } from '../memory/address.ts';
import { IntervalMap } from '../memory/interval-map.ts';
import { closeSpace, type HeldSpace } from './held-space.ts';
import type { RunList } from './run-list.ts';

/**
 * A second host space with what `from` maps, except that of the `removals` only the `remnants` are there; pages that follow
 * each other with one permission are one host call. null when the host cannot: then nothing is left behind.
 */
export function copySpace(
  host: Host,
  requirements: SpaceRequirements,
  from: HeldSpace,
  removals: RunList,
  remnants: RunList,
): { readonly hostSpace: HostSpace; readonly held: IntervalMap } | null {
  const { replace, copy } = host.capabilities;
  if (!replace || !copy) return null;
  const held = heldAfter(from.held, removals, remnants);
  let hostSpace: HostSpace | null = null;
  try {
    hostSpace = host.createSpace(requirements);
    if (copyExtents(from.hostSpace, hostSpace, held)) return { hostSpace, held };
  } catch (error) {
    hostErrorOf(error);
  }
  if (hostSpace !== null) closeSpace(hostSpace);
  return null;
}

function heldAfter(before: IntervalMap, removals: RunList, remnants: RunList): IntervalMap {
  const held = new IntervalMap(before.limit);
  let r = 0;
  before.intervals(0, PFN_LIMIT - 1, (iova, gpa, pages, permission) => {
    if (r < removals.length && removals.iova[r] === iova) r++;
    else held.insert(iova, pages, gpa, permission);
    return true;
  });
  for (let i = 0; i < remnants.length; i++) held.insert(remnants.iova[i], remnants.pages[i], remnants.gpa[i], remnants.permission[i]);
  return held;
}

function copyExtents(from: HostSpace, to: HostSpace, held: IntervalMap): boolean {
  let first = 0;
  let end = -1;
  let permission = 0;
  let done = true;
  const copyExtent = (): boolean => end < 0 || to.copy(from, first, end - first, permission) === 0;
  held.intervals(0, PFN_LIMIT - 1, (iova, _gpa, pages, wanted) => {
    if (iova !== end || wanted !== permission) {
      done = copyExtent();
      first = iova;
      permission = wanted;
    }
    end = iova + pages;
    return done;
  });
  return done && copyExtent();
}
