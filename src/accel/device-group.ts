import type { HostDevice, IovaRange } from '../host/host.ts';
import { type AddressSpace, type FirstStage, sameStage } from '../target/target.ts';
import type { Choice, PathWish } from './choose.ts';
import type { DemandSpace } from './on-demand/demand-space.ts';
import { NOWHERE, type PasidPlace, type Path } from './path.ts';
import type { WatchedSpace } from './watched-tables.ts';

/** A passed-through endpoint, or one PASID of it: its host device, and the space that the guest wants its requests to reach. */
export interface Binding {
  readonly endpoint: number;
  /** NO_PASID: of the requests that carry none. */
  readonly pasid: number;
  readonly device: HostDevice;
  readonly group: DeviceGroup;
  /** What the target was told of its device is true no more. */
  readonly release: () => void;
  wanted: AddressSpace | null;
  /** The same as a value; and what the hardware has of it. */
  stage: FirstStage | null;
  reached: FirstStage | null;
}

/** A space that the hardware holds for at least one group. */
export interface Backing {
  readonly space: AddressSpace;
  readonly path: Path;
  readonly choice: Choice;
  /** What the path asks, where it is not the space itself. */
  readonly watched: WatchedSpace | null;
  readonly demand: DemandSpace | null;
  /** What becomes of single PASIDs of its devices. */
  readonly pasids: PasidPlace;
  readonly groups: Set<DeviceGroup>;
  /** The last call of the path left something to do. */
  isBehind: boolean;
  /** The next flush comes to it, if it has something to do. */
  isListed: boolean;
}

/**
 * Endpoints whose devices the hardware cannot tell apart (one IOMMU group): they reach a space when the guest wants all of them to reach it,
 * and until then none of them reaches anything, since what one reached the others would reach too.
 */
export class DeviceGroup {
  readonly name: string | null;
  readonly members = new Set<Binding>();
  /** Where the hardware has them. */
  backing: Backing | null = null;
  /** Of what the target offers its guest, what the hardware can map; null: nobody has asked. */
  reach: readonly IovaRange[] | null = null;
  /** Why no path took them where their guest wanted them last; null: one did. */
  refused: Choice['refused'] | null = null;

  constructor(name: string | null) {
    this.name = name;
  }

  /** What all members want; null when they want different things. */
  get agreed(): Pick<Binding, 'wanted' | 'stage'> | null {
    const [first] = this.members;
    for (const { wanted, stage } of this.members) {
      if (wanted !== first.wanted || !sameStage(stage, first.stage)) return null;
    }
    return first;
  }

  /** The path of a member and why; `blocked` with the reason where that is not the guest's wish. null: hardware has the group nowhere. */
  choiceOf(member: Binding, wish: PathWish): Choice | null {
    const reason = this.#refusal(member);
    if (reason !== null) return { path: 'blocked', refused: [{ path: wish, reason }] };
    const { backing, refused } = this;
    // What was refused is of no account to who stayed where he was.
    if (refused !== null && (backing === null || backing.space === NOWHERE)) return { path: 'blocked', refused };
    if (backing === null) return null;
    const { path, choice, space } = backing;
    const part = path.unfinished ? [`${space.name} is mapped in part: what is missing is blocked, and follows by itself`] : [];
    const missing = [...part, ...path.leftOut].map((reason) => ({ path: choice.path, reason }));
    return { path: choice.path, refused: [...choice.refused, ...missing] };
  }

  /** Why a member that wants a space reaches none; null when it does, or wants none. */
  #refusal({ wanted, device }: Binding): string | null {
    if (wanted === null) return null;
    if (device.closed) return 'the host could not detach the device, so it was closed';
    for (const other of this.members) {
      if (other.wanted === wanted) continue;
      const where = other.wanted === null ? 'is blocked' : `reaches ${other.wanted.name}`;
      return `it is in IOMMU group ${this.name} with endpoint 0x${other.endpoint.toString(16)}, which ${where}: the hardware cannot tell them apart`;
    }
    return device.attachment === null ? 'the host could not follow; every flush tries again' : null;
  }
}
