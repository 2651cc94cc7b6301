import type { Host } from '../host/host.ts';
import type { GuestMemory } from '../memory/guest-memory.ts';
import { type AddressSpace, type FirstStage, NO_PASID } from '../target/target.ts';
import { type Choice, choose, type PathWish } from './choose.ts';
import type { DeviceGroup } from './device-group.ts';
import { NOWHERE, type PasidPlace, type PathContext, type StagedTarget } from './path.ts';

/** What the choice of a path depends on beside the space and the devices. */
export interface Surroundings {
  readonly host: Host;
  readonly memory: GuestMemory;
  /** undefined: no target whose stages hardware could take over. */
  readonly target: StagedTarget | undefined;
  readonly isWatched: boolean;
}

/** Which path a space and a group of devices have by the wish of the moment. */
export class Chooser {
  wish: PathWish;
  readonly #surroundings: Surroundings;

  constructor(wish: PathWish, surroundings: Surroundings) {
    this.wish = wish;
    this.#surroundings = surroundings;
  }

  choose(space: AddressSpace, group: DeviceGroup, stage: FirstStage | null): ReturnType<typeof choose> {
    return choose(this.contextOf(space, group, stage), this.wish);
  }

  contextOf(space: AddressSpace, group: DeviceGroup, stage: FirstStage | null): PathContext {
    const { host, memory, target, isWatched } = this.#surroundings;
    const [{ device, pasid }] = group.members;
    return { space, memory, host, device, pasid, stage, isWatched, ...(target !== undefined && { target }) };
  }

  /** What would become of single PASIDs of the group's devices by the wish of now. */
  pasidsOf(group: DeviceGroup): PasidPlace {
    const [{ wanted, stage }] = group.members;
    const space = wanted ?? NOWHERE;
    return this.choose(space, group, stage).served?.kind.pasidsOf?.(this.contextOf(space, group, stage)) ?? 'own';
  }

  /** Whether the fastest path takes a device that reaches no space, or has tables of the guest's for PASIDs only. */
  keepsAttached(group: DeviceGroup, stage: FirstStage): boolean {
    if (this.#surroundings.target?.stageFormat === undefined || group.members.size === 0) return false;
    // A PASID that reaches nothing is detached.
    const [{ pasid }] = group.members;
    if (pasid !== NO_PASID) return false;
    return this.choose(NOWHERE, group, stage).served !== null;
  }
}

/** Why no path serves, in one line. */
export function reasonsOf({ refused }: Choice): string {
  return refused.map(({ path, reason }) => `${path}: ${reason}`).join('; ');
}
