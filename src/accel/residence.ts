import type { HostError } from '../host/errno.ts';
import type { Host, HostDevice, HostSpace, SpaceRequirements } from '../host/host.ts';
import type { GuestMemory } from '../memory/guest-memory.ts';
import { IntervalMap } from '../memory/interval-map.ts';
import { Attachments } from './attachments.ts';
import { HeldSpace } from './held-space.ts';
import { LeftOut, readableToo } from './left-out.ts';
import type { PathContext } from './path.ts';
import { RunList } from './run-list.ts';
import { copySpace } from './space-copy.ts';

/** Host mappings of one address space: as many as IntervalMap can hold. */
const MAPPING_LIMIT = 2 ** 28;
const NOTHING = new RunList(0);

/**
 * The host space that shadow mappings and their devices are in, of the make that they need, and how another one takes its place while no device
 * sees a gap: for a split, for dirty bits, for pages that are for writing only.
 */
export class Residence {
  readonly devices: Attachments;
  readonly #memory: GuestMemory;
  readonly #host: Host;
  readonly #leftOut: LeftOut;
  readonly #lost: (first: number, last: number) => void;
  #requirements: SpaceRequirements;
  #now: HeldSpace;
  #hasWriteOnly = false;
  /** Why pages for writing only can be read as well. */
  #readable: string | null = null;

  /** `lost`: see HeldSpace. @throws HostError */
  constructor({ space, memory, host, device, pageRequests }: PathContext, lost: (first: number, last: number) => void) {
    this.#memory = memory;
    this.#host = host!;
    this.#leftOut = new LeftOut(memory);
    this.#lost = lost;
    const dirtyTracking = memory.isLogged && device !== undefined && host!.refusesDirtyTracking(device) === null;
    this.#requirements = { granuleLg2: space.granuleLg2, dirtyTracking, ...(pageRequests && { pageRequests }) };
    this.#now = this.#hold(host!.createSpace(this.#requirements), new IntervalMap(MAPPING_LIMIT));
    this.devices = new Attachments(this.#now.hostSpace);
    if (memory.isLogged) this.#now.hostSpace.trackDirty(true);
  }

  get now(): HeldSpace {
    return this.#now;
  }

  get leftOut(): readonly string[] {
    return this.#readable === null ? this.#leftOut.reasons : [...this.#leftOut.reasons, readableToo(this.#readable)];
  }

  /** In place where the host can, and else by a space that is made for it. Returns why the one before could not be closed. */
  trackDirty(on: boolean): HostError | null {
    const { hostSpace } = this.#now;
    if (hostSpace.trackDirty(on) === 0 || (hostSpace.dirty !== null) === on) return null;
    return !on || this.#untrackable() === null ? this.#remake({ dirtyTracking: on }).error : null;
  }

  /** Path.inexact */
  get inexact(): string | null {
    const { dirty } = this.#now.hostSpace;
    return dirty === null ? (this.#untrackable() ?? 'the host makes no space that remembers what is written') : dirty.inexact;
  }

  #untrackable(): string | null {
    for (const device of this.devices.devices) {
      const reason = this.#host.refusesDirtyTracking(device);
      if (reason !== null) return reason;
    }
    return null;
  }

  /** Some page is for writing only from now on. As `separateWrites`. */
  holdsWriteOnly(): HostError | null {
    if (this.#hasWriteOnly) return null;
    this.#hasWriteOnly = true;
    return this.separateWrites(this.devices.devices);
  }

  /**
   * What is for writing only, and these devices would read, moves with all the rest into a space that keeps it from them; where there is none, that is
   * said. Returns why the space before could not be closed.
   */
  separateWrites(devices: Iterable<HostDevice>): HostError | null {
    if (!this.#hasWriteOnly || this.#requirements.writeOnly === true) return null;
    for (const device of devices) {
      const reason = this.#host.lacksWriteOnly(device);
      if (reason === null) continue;
      const { done, error } = this.#readable === null ? this.#remake({ writeOnly: true }) : NOT_DONE;
      this.#readable = done ? null : reason;
      return error;
    }
    return null;
  }

  /** A host space of another make, with the same mappings, takes the place of the one there is. */
  #remake(more: SpaceRequirements): Move {
    const requirements = { ...this.#requirements, ...more };
    const copy = copySpace(this.#host, requirements, this.#now, NOTHING, NOTHING);
    if (copy === null) return NOT_DONE;
    const moved = this.moveTo(this.#hold(copy.hostSpace, copy.held));
    if (moved.done) this.#requirements = requirements;
    return moved;
  }

  /** A host space with what is mapped now, except that of the `removals` only the `remnants` are there. null: the host makes none. */
  copyWithout(removals: RunList, remnants: RunList): HeldSpace | null {
    const copy = copySpace(this.#host, this.#requirements, this.#now, removals, remnants);
    return copy && this.#hold(copy.hostSpace, copy.held);
  }

  /** A space that has all that is needed takes the place of the one there is, or is closed and nothing was done. */
  moveTo(after: HeldSpace): Move {
    const done = this.devices.moveTo(after.hostSpace);
    const goes = done ? this.#now : after;
    if (done) this.#now = after;
    return { done, error: goes.close() };
  }

  #hold(hostSpace: HostSpace, held: IntervalMap): HeldSpace {
    return new HeldSpace(hostSpace, held, { memory: this.#memory, leftOut: this.#leftOut }, this.#lost);
  }
}

/** Whether devices are in another space now; and why the one that goes could not be closed. */
interface Move {
  readonly done: boolean;
  readonly error: HostError | null;
}

const NOT_DONE: Move = { done: false, error: null };
