import type { AddressSpace, RunVisitor } from '../target/target.ts';
import type { SpaceFollower } from './path.ts';

/** What a path asks in the place of a space whose guest announces nothing: what becomes valid is heard of in another way, and the follower told. */
export abstract class FollowedSpace implements AddressSpace {
  readonly name: string;
  readonly owner: AddressSpace['owner'];
  readonly announced = true;
  readonly granuleLg2: number;
  path: SpaceFollower | null = null;
  protected readonly space: AddressSpace;

  constructor(space: AddressSpace) {
    this.space = space;
    this.name = space.name;
    this.owner = space.owner;
    this.granuleLg2 = space.granuleLg2;
  }

  get apertures(): AddressSpace['apertures'] {
    return this.space.apertures;
  }

  abstract enumerate(first: number, last: number, visit: RunVisitor): number;
}
