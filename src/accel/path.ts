import type { HostError } from '../host/errno.ts';
import type { Host, HostDevice, PageRequestQueue } from '../host/host.ts';
import type { GuestMemory } from '../memory/guest-memory.ts';
import type { AddressSpace, FirstStage, PageAnswer, Target } from '../target/target.ts';

/** What requests reach that reach nothing: a space without mappings, which only paths attach to that keep blocked devices attached. */
export const NOWHERE: AddressSpace = {
  name: 'nothing',
  owner: 'guest',
  announced: true,
  granuleLg2: 12,
  apertures: [],
  enumerate: (_first, last) => last + 1,
};

/** Who makes the requests, in the target's terms. */
export interface Requester {
  readonly endpoint: number;
  /** NO_PASID: requests that carry none. */
  readonly pasid: number;
  /** What `Target.stageOf` says of it; null: the target has no such stages, or this is none. */
  readonly stage: FirstStage | null;
}

/** How one address space reaches the hardware. */
export interface Path {
  readonly name: string;
  /**
   * From now on the device's requests reach the address space; said again where its stage is another one. Returns 0, or a negative errno: then
   * the device is none of the path's, and `HostDevice.attachment` says whether it could be taken out again.
   */
  attach(device: HostDevice, requester: Requester): number;
  /**
   * Makes a first slice of what the space means ready, as the first `attach` does, before any device comes; flushes do the rest. Returns 0 or a
   * negative errno. Left out: the hardware walks tables that are there.
   */
  populate?(): number;
  /** The device's requests are blocked. Returns 0 or a negative errno. */
  detach(device: HostDevice): number;
  /** The device was attached to another path, which replaced this one: nothing is left to do on the host. */
  moved(device: HostDevice): void;
  /** [first, last] (page frame numbers) may mean something else now. */
  changed(first: number, last: number): void;
  /**
   * Guest RAM is other than it was: everything is looked at anew, and what leads to no RAM any more is left out. Returns 0 or a negative
   * errno: then the hardware may still have what is gone.
   */
  remap(): number;
  /** The host is to remember what devices write, where it can, or no more: said before guest memory is logged (`GuestMemory.isLogged`), and after. */
  trackDirty(on: boolean): void;
  /** Says to guest memory (`GuestMemory.wrote`) what the devices may have written since it was logged, or since the last time. */
  noteWrites(): void;
  /** Why that is more than they have written; null: it is not. */
  readonly inexact: string | null;
  /** Makes the hardware agree. Returns 0 or a negative errno; see AddressSpace.owner for what stands then. */
  flush(): number;
  /** The next flush has something to do: what changed, or what earlier ones could not do. Only then is it called. */
  readonly pending: boolean;
  /** The last flush did a part as large as one may be; the next one goes on behind it, and nothing but being called is missing. */
  readonly unfinished: boolean;
  /** What is not as the guest means it, and why: registers of devices that the host does not map, pages for writing only that can be read as well. */
  readonly leftOut: readonly string[];
  /** Of the last call that failed. */
  readonly error: HostError | null;
  readonly counters: PathCounters;
  /** Where the hardware walks the guest's own tables: of all such paths on it. */
  readonly guestHardware?: GuestHardware;
  /** Frees what the path has on the host; never throws. Devices must be detached or moved. */
  close(): void;
}

/** Who makes the hardware follow what a space means. */
export interface SpaceFollower {
  changed(first: number, last: number): void;
  /** Makes the hardware agree, and says whether it does. */
  settle(): boolean;
}

/** Hardware that walks the tables of one guest: hears the guest's own commands, and speaks to it (`Target.report`). */
export interface GuestHardware {
  /** See TargetObserver; carried out by the next flush of one of its paths. */
  invalidated(words: Int32Array): void;
  answered(endpoint: number, pasid: number, group: number, answer: PageAnswer): void;
  /** Tells the target what the hardware has said since. */
  poll(): void;
  /** File descriptors that are readable when there is something to poll for. */
  readonly eventDescriptors: readonly number[];
}

/** What a path did so far. */
export interface PathCounters {
  /** Guest operations that ended in a flush with something to look at. */
  flushes: number;
  /** Mappings taken away and put back in parts because the guest unmapped a part, devices seeing a gap meanwhile. */
  splits: number;
  /** The same done by attaching a prepared copy: no gap. */
  splitsWithoutGap: number;
  /** Neighbours taken away and mapped as one because the host had no mappings left, devices seeing a gap meanwhile. */
  merges: number;
}

/** What a path needs to know to say whether it can serve, and to be made. */
export interface PathContext {
  readonly space: AddressSpace;
  readonly memory: GuestMemory;
  /** null: the endpoint is emulated. */
  readonly host: Host | null;
  /** The first device that comes, by which the host can be asked what hardware it has. */
  readonly device?: HostDevice;
  /** Left out: no target whose stages hardware could take over. */
  readonly target?: StagedTarget;
  /** Stores to the guest's tables are told (TableWatch). Default: they are not. */
  readonly isWatched?: boolean;
  /** Where devices ask for pages that the hardware has not: the path is filled on demand. Left out: it is not. */
  readonly pageRequests?: PageRequestQueue;
  /** Of the first device that comes. Default: null. */
  readonly stage?: FirstStage | null;
  /** Of its requests. Default: NO_PASID. */
  readonly pasid?: number;
}

/** What paths see of a target. */
export type StagedTarget = Pick<Target, 'name' | 'stageFormat' | 'report'> & Partial<Pick<Target, 'translate'>>;

/**
 * What becomes of single PASIDs of a path's devices. `own`: each can be attached for itself; `carried`: what a device is attached to answers for them;
 * `none`: the hardware takes none.
 */
export type PasidPlace = 'own' | 'carried' | 'none';

/** One file of src/accel: a path and what it needs. */
export interface PathKind {
  readonly name: string;
  /** Hardware reads the guest's own tables; otherwise the path asks what the space means, and has to hear of what becomes valid. */
  readonly readsGuestTables: boolean;
  /** null when the path can serve; otherwise the capability that is missing, as a sentence for `explain`. */
  refuse(context: PathContext): string | null;
  /** For devices that it can serve. Left out: `own`. */
  pasidsOf?(context: PathContext): PasidPlace;
  /** @throws HostError */
  create(context: PathContext): Path;
}
