import { errno, HostError, hostErrorOf } from '../host/errno.ts';
import type { AddressSpace, FirstStage } from '../target/target.ts';
import type { AskedSpaces } from './asked-spaces.ts';
import type { Candidate, Choice } from './choose.ts';
import { type Chooser, reasonsOf } from './chooser.ts';
import type { Backing, DeviceGroup } from './device-group.ts';
import { GuestHardwareList } from './guest-hardware-list.ts';
import type { SpaceFollower } from './path.ts';

/** Who hears of what a flush has made of groups. */
export interface BackingListener {
  /** Where their endpoints are may be another answer now. */
  tell(group: DeviceGroup): void;
  /** Not all tables of the space can be watched: its groups can stay there no more. */
  blind(backing: Backing): void;
}

/** The spaces that the hardware holds: made for the first group, flushed where something is to be done, closed after the last. */
export class Backings {
  /** Of the last call that failed, when the host was the reason. */
  error: HostError | null = null;
  readonly hardware = new GuestHardwareList();
  readonly #chooser: Chooser;
  readonly #asked: AskedSpaces;
  readonly #schedule: (slice: () => void) => void;
  readonly #listener: BackingListener;
  readonly #bySpace = new Map<AddressSpace, Backing>();
  /** What changed since the last flush, and what that could not finish; some may have gone, or been flushed, meanwhile. */
  readonly #pending: (Backing | null)[] = [];
  #scheduled = false;

  constructor(chooser: Chooser, asked: AskedSpaces, schedule: (slice: () => void) => void, listener: BackingListener) {
    this.#chooser = chooser;
    this.#asked = asked;
    this.#schedule = schedule;
    this.#listener = listener;
  }

  get all(): Backing[] {
    return [...this.#bySpace.values()];
  }

  /** Of the space, made where there is none yet. A negative errno: no path serves (`group.refused`), or the host refuses. */
  of(space: AddressSpace, group: DeviceGroup, stage: FirstStage | null): Backing | number {
    const known = this.#bySpace.get(space);
    if (known !== undefined) return known;
    const { served, choice } = this.#chooser.choose(space, group, stage);
    if (served === null) {
      group.refused = choice.refused;
      return this.unserved(choice);
    }
    const backing = this.make(space, group, stage, served, choice);
    if (typeof backing !== 'number') this.#bySpace.set(space, backing);
    return backing;
  }

  /** No path serves: a negative errno, and the reasons as the error. */
  unserved(choice: Choice): number {
    this.error = new HostError('attach', errno.EOPNOTSUPP, undefined, reasonsOf(choice));
    return -errno.EOPNOTSUPP;
  }

  /** One that is not the space's yet. */
  make(space: AddressSpace, group: DeviceGroup, stage: FirstStage | null, served: Candidate, choice: Choice): Backing | number {
    const context = this.#chooser.contextOf(space, group, stage);
    try {
      const { watched, demand, ...requests } = this.#asked.of(space, served.hearing);
      const path = served.kind.create({ ...context, ...requests, space: watched ?? demand ?? space });
      const pasids = served.kind.pasidsOf?.(context) ?? 'own';
      const backing: Backing = {
        space,
        path,
        choice,
        watched,
        demand,
        pasids,
        groups: new Set<DeviceGroup>(),
        isBehind: false,
        isListed: false,
      };
      const follower = watched ?? demand;
      if (follower !== null) follower.path = this.#following(backing);
      this.hardware.add(backing);
      return backing;
    } catch (caught) {
      const error = hostErrorOf(caught);
      this.error = error;
      return -error.errno;
    }
  }

  /** Of two backings of one space one stays; the other has no group any more. */
  decide(stays: Backing, goes: Backing): void {
    this.#bySpace.set(stays.space, stays);
    this.#drop(goes);
    this.took(stays);
    for (const group of stays.groups) this.#listener.tell(group);
  }

  releaseUnused(backing: Backing): void {
    if (backing.groups.size > 0) return;
    this.#bySpace.delete(backing.space);
    this.#drop(backing);
  }

  changed(space: AddressSpace, first: number, last: number): void {
    const backing = this.#bySpace.get(space);
    if (backing === undefined) return;
    backing.path.changed(first, last);
    this.#mark(backing);
  }

  invalidated(words: Int32Array): void {
    for (const backing of this.hardware.invalidated(words)) this.#mark(backing);
  }

  flush(): number {
    let result = 0;
    const pending = this.#pending;
    for (let i = 0; i < pending.length; i++) {
      const backing = pending[i];
      const answer = backing?.path.pending ? this.#flushOne(backing) : 0;
      if (result === 0) result = answer;
    }
    let kept = 0;
    for (const backing of pending) {
      if (backing === null) continue;
      backing.isListed = backing.path.pending;
      if (backing.isListed) pending[kept++] = backing;
    }
    while (pending.length > kept) pending.pop();
    return result;
  }

  /** The path was called for something else than a flush, which may have left something to do. */
  took(backing: Backing): void {
    const { path } = backing;
    this.#keep(backing);
    // What could not be mapped for a device that came is not its way in, but has a reason.
    if (path.pending && path.error !== null) this.error = path.error;
    if (path.unfinished) this.#goOn();
  }

  /** Whether all tables that the path's space was read from are watched; where they are not, those that are tables no more are left. */
  sees(backing: Backing): boolean {
    const { watched, path } = backing;
    if (watched === null || !watched.isBlind) return true;
    this.#asked.drop(watched);
    for (const { first, last } of watched.apertures) path.changed(first, last);
    path.flush();
    this.#keep(backing);
    if (watched.isBlind) this.error = watched.blindness;
    return !watched.isBlind;
  }

  #flushOne(backing: Backing): number {
    const { path } = backing;
    const wasBehind = backing.isBehind;
    const leftOut = path.leftOut.length;
    const answer = path.flush();
    this.#keep(backing);
    if (answer < 0) this.error = path.error;
    if (path.unfinished) this.#goOn();
    const isOther = answer < 0 || wasBehind || backing.isBehind || path.leftOut.length !== leftOut;
    if (isOther) for (const group of backing.groups) this.#listener.tell(group);
    if (!this.sees(backing)) this.#listener.blind(backing);
    return answer;
  }

  /** What was told is carried out at once: whoever made the store, or waits for the page, goes on when the hardware agrees. */
  #following(backing: Backing): SpaceFollower {
    return {
      changed: (first, last) => {
        backing.path.changed(first, last);
        this.#mark(backing);
      },
      settle: () => this.#flushOne(backing) === 0 && !backing.path.pending,
    };
  }

  /** What a path could not finish in one slice follows by itself. */
  #goOn(): void {
    if (this.#scheduled) return;
    this.#scheduled = true;
    this.#schedule(() => {
      this.#scheduled = false;
      this.flush();
    });
  }

  /** What a call has left to do is for the next flush. */
  #keep(backing: Backing): void {
    backing.isBehind = backing.path.pending;
    if (backing.isBehind) this.#mark(backing);
  }

  #mark(backing: Backing): void {
    if (backing.isListed) return;
    backing.isListed = true;
    this.#pending.push(backing);
  }

  #drop(backing: Backing): void {
    if (backing.isListed) this.#pending[this.#pending.indexOf(backing)] = null;
    const heir = this.hardware.remove(backing, this.#bySpace.values());
    if (heir !== null) this.#keep(heir);
    if (backing.watched !== null) this.#asked.drop(backing.watched);
    backing.path.close();
  }
}
