import { errno, type HostError } from '../host/errno.ts';
import type { HostDevice } from '../host/host.ts';
import type { AddressSpace, FirstStage } from '../target/target.ts';
import type { Backings } from './backings.ts';
import type { Choice } from './choose.ts';
import type { Chooser } from './chooser.ts';
import type { Backing, Binding, DeviceGroup } from './device-group.ts';
import { NOWHERE } from './path.ts';
import { seal, sealAll } from './seal.ts';

const BLOCKED: FirstStage = { kind: 'abort' };

/** Brings groups of devices to where their guest wants them: from one backing to another, or to nothing. */
export class Placement {
  readonly #backings: Backings;
  readonly #chooser: Chooser;
  readonly #tell: (group: DeviceGroup) => void;
  readonly #lift: (binding: Binding) => void;

  /** `listener.tell` hears of groups whose place may be another one, `lift` of devices that go where no PASID of theirs can be attached. */
  constructor(backings: Backings, chooser: Chooser, { tell, lift }: { tell(group: DeviceGroup): void; lift(binding: Binding): void }) {
    this.#backings = backings;
    this.#chooser = chooser;
    this.#tell = tell;
    this.#lift = lift;
  }

  /** Brings a group to where all of it is wanted, and blocks it where there is no such place. Returns 0 or a negative errno. */
  settle(group: DeviceGroup): number {
    const { wanted, stage } = group.agreed ?? { wanted: null, stage: BLOCKED };
    const space = wanted ?? (stage !== null && this.#chooser.keepsAttached(group, stage) ? NOWHERE : null);
    const result = space === null ? this.#block(group, false) : this.#move(group, space, stage);
    if (result === 0) this.#tell(group);
    return result;
  }

  /** Those on a path that cannot have them any longer, for this reason, reach nothing. */
  giveUpAll(backing: Backing, error: HostError | null): void {
    for (const group of [...backing.groups]) this.giveUp(group, backing, error);
  }

  /** The same of one group, which was at the backing. */
  giveUp(group: DeviceGroup, wasAt: Backing, error: HostError | null): void {
    for (const binding of group.members) {
      binding.wanted = null;
      binding.stage = binding.stage && BLOCKED;
    }
    this.#block(group, true);
    group.refused = refusalOf(wasAt, error);
    this.#tell(group);
  }

  /** The guest has left the old place for good, and the new one cannot be had: better no translation than a stale one. */
  abandon(binding: Binding): void {
    const { group, stage } = binding;
    binding.wanted = null;
    binding.stage = stage && BLOCKED;
    if (stage === null || this.settle(group) < 0) this.#block(group, true);
  }

  /** The group's devices are somebody else's: nothing is done on the host but what its backing needs no more. */
  leave(group: DeviceGroup): void {
    const { backing } = group;
    group.backing = null;
    if (backing === null) return;
    backing.groups.delete(group);
    this.#backings.releaseUnused(backing);
  }

  /** `anyhow`: there is no staying, so what cannot be detached is closed. */
  #block(group: DeviceGroup, anyhow: boolean): number {
    const { backing } = group;
    for (const { device } of group.members) {
      const result = backing?.path.detach(device) ?? 0;
      if (result === 0) continue;
      this.#backings.error = backing!.path.error;
      if (anyhow || result === -errno.ENODEV) {
        seal(device);
        backing!.path.moved(device);
      } else {
        this.#return(group, backing);
        return result;
      }
    }
    sealAll(devicesOf(group));
    this.leave(group);
    return 0;
  }

  #move(group: DeviceGroup, space: AddressSpace, stage: FirstStage | null): number {
    const after = this.#backings.of(space, group, stage);
    if (typeof after === 'number') return after;
    const before = group.backing;
    const { result, error } = this.#attachAll(group, after, stage);
    const isBlind = result === 0 && !this.#backings.sees(after);
    if (result < 0) this.#backings.error = error;
    if (result < 0 || isBlind) {
      group.refused = refusalOf(after, this.#backings.error);
      if (before !== after) {
        for (const device of devicesOf(group)) after.path.moved(device);
        this.#return(group, before);
      }
      this.#backings.releaseUnused(after);
      if (result < 0 && after.groups.size === 0 && this.#hasOther(group, after, stage)) return this.#move(group, space, stage);
      return isBlind ? -errno.ENOSPC : result;
    }
    // Blocked in the place of what was refused, it is still that.
    if (space !== NOWHERE || (stage !== null && stage.kind !== BLOCKED.kind)) group.refused = null;
    for (const member of group.members) member.reached = stage;
    if (before !== after) {
      for (const device of devicesOf(group)) before?.path.moved(device);
      this.leave(group);
      group.backing = after;
      after.groups.add(group);
    }
    this.#backings.took(after);
    return 0;
  }

  /** Why a path does not serve may come out when a device is attached; then the next one may. */
  #hasOther(group: DeviceGroup, { space, choice }: Backing, stage: FirstStage | null): boolean {
    const next = this.#chooser.choose(space, group, stage);
    return next.served !== null && next.choice.path !== choice.path;
  }

  #attachAll(group: DeviceGroup, after: Backing, stage: FirstStage | null): { result: number; error: HostError | null } {
    for (const member of group.members) {
      const { device, endpoint, pasid } = member;
      if (after.pasids !== 'own') this.#lift(member);
      const result = after.path.attach(device, { endpoint, pasid, stage });
      if (result < 0) return { result, error: after.path.error };
    }
    return { result: 0, error: null };
  }

  /** Devices may have left for a moment: they go back, or, when the host does not let them, are blocked. */
  #return(group: DeviceGroup, to: Backing | null): void {
    let result = 0;
    for (const { device, endpoint, pasid, reached } of group.members) {
      to?.path.moved(device);
      if (to !== null && result === 0) result = to.path.attach(device, { endpoint, pasid, stage: reached });
      else result = -errno.ENODEV;
    }
    if (result === 0) return;
    const devices = devicesOf(group);
    for (const device of devices) to?.path.moved(device);
    sealAll(devices);
    this.leave(group);
  }
}

/** Why groups cannot be, or stay, on the path that was to have them: the host's answer, or tables that it does not see. */
function refusalOf({ choice }: Backing, error: HostError | null): Choice['refused'] {
  return [...choice.refused, { path: choice.path, reason: error?.message ?? '' }];
}

function devicesOf(group: DeviceGroup): HostDevice[] {
  return [...group.members].map(({ device }) => device);
}
