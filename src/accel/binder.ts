import { errno, HostError, hostErrorOf } from '../host/errno.ts';
import type { Host, HostDevice } from '../host/host.ts';
import { requireBoolean, requireInteger, requireNumber, requireObject } from '../memory/arguments.ts';
import { GuestMemory } from '../memory/guest-memory.ts';
import {
  type AddressSpace,
  type FirstStage,
  NO_PASID,
  type PageAnswer,
  type PasidDirectory,
  sameStage,
  type Target,
  type TargetObserver,
} from '../target/target.ts';
import { AskedSpaces } from './asked-spaces.ts';
import { Backings } from './backings.ts';
import { Bindings } from './bindings.ts';
import { type Choice, checkWish, type PathWish } from './choose.ts';
import { Chooser } from './chooser.ts';
import { confine } from './confinement.ts';
import type { Binding, DeviceGroup } from './device-group.ts';
import { DeviceGroups } from './device-groups.ts';
import { changePathOf } from './exchange.ts';
import { BLOCK_LIMIT, BLOCK_PAGES } from './on-demand/demand-space.ts';
import type { DemandPlace } from './on-demand/page-service.ts';
import { NOWHERE, type PathCounters, type StagedTarget } from './path.ts';
import { Placement } from './placement.ts';
import { Processes } from './processes.ts';
import { seal } from './seal.ts';
import { SharedRam } from './shared-ram.ts';
import type { TableWatch } from './table-watch.ts';

export interface BinderOptions {
  /** `auto` (default), or the only path that may serve. */
  readonly path?: PathWish;
  /** Hears of endpoints, and of single PASIDs of them (else NO_PASID), whose path may be another one now, whatever was the reason. */
  readonly moved?: (endpoint: number, pasid: number) => void;
  /**
   * Runs the next slice of what was too much for one flush, soon but not at once: never within a guest operation, nor beside one. Default:
   * setImmediate.
   */
  readonly schedule?: (slice: () => void) => void;
  /** Left out: spaces whose guest does not announce new mappings are refused, unless hardware walks the guest's own tables. */
  readonly watch?: TableWatch | undefined;
  /** Pages of a space filled on demand that hardware has at one time at most, in blocks of 16. Default: 2^20. */
  readonly residentPages?: number;
  /** Whose endpoints they are: for paths on which hardware walks the guest's own tables. Left out: there are none. */
  readonly target?: Pick<Target, 'stageOf' | 'offered' | 'confine'> & StagedTarget;
}

/**
 * Binds the passed-through endpoints of one target to one host: endpoints that share an address space share one path, made
 * when the first of them arrives and closed when the last one leaves. Spaces that only emulated devices use cost nothing here,
 * and a flush visits the spaces that have something to do, not those that there are.
 *
 * @example
 * const kernel = simKernel();
 * const ram = kernel.allocate(1 << 16);
 * const memory = new GuestMemory([{ gpa: 0n, buffer: ram.buffer, hostAddress: ram.address }]);
 * const target = new VirtioIommu({ memory });
 * target.addEndpoint(8);
 * const host = new IommufdHost(kernel);
 * const binder = new Binder(host, memory);
 * binder.add(8, host.openDevice(kernel.device().path), target.spaceOf(8)); // 0: it reaches guest RAM as it is
 * kernel.device().dmaWrite(0x10n, Uint8Array.of(7)); // 0
 * binder.close();
 * host.close();
 */
export class Binder implements TargetObserver {
  readonly #host: Host;
  readonly #sharedRam: SharedRam;
  readonly #target: BinderOptions['target'];
  readonly #moved: (endpoint: number, pasid: number) => void;
  readonly #chooser: Chooser;
  readonly #asked: AskedSpaces;
  readonly #backings: Backings;
  readonly #placement: Placement;
  readonly #bindings = new Bindings();
  readonly #processes: Processes;
  readonly #groups = new DeviceGroups();

  /** @throws RangeError for a wish that names no path. */
  constructor(host: Host, memory: GuestMemory, options: BinderOptions = {}) {
    const { path = 'auto', moved = () => {}, schedule = setImmediate, target, watch, residentPages = BLOCK_LIMIT * BLOCK_PAGES } = options;
    requireObject('Binder', 'host', host, 'Host', ['openDevice', 'createSpace']);
    if (!(memory instanceof GuestMemory)) throw new TypeError('Binder: memory is no GuestMemory');
    checkWish(path);
    requireInteger('Binder', 'residentPages', residentPages, BLOCK_PAGES, 2 ** 32);
    this.#host = host;
    this.#sharedRam = new SharedRam(host, memory);
    this.#target = target;
    this.#moved = moved;
    const tell = (group: DeviceGroup) => this.#tell(group);
    this.#chooser = new Chooser(path, { host, memory, target, isWatched: watch !== undefined });
    const residentBlocks = Math.floor(residentPages / BLOCK_PAGES);
    this.#asked = new AskedSpaces(
      { host, memory, target, watch, residentBlocks },
      (device) => this.#demandOf(device),
      (endpoint) => moved(endpoint, NO_PASID),
    );
    this.#backings = new Backings(this.#chooser, this.#asked, (slice) => schedule(slice), {
      tell,
      blind: (backing) => this.#placement.giveUpAll(backing, this.#backings.error),
    });
    const lift = (binding: Binding) => {
      if (binding.pasid === NO_PASID) this.#processes.lift(binding);
    };
    this.#placement = new Placement(this.#backings, this.#chooser, { tell, lift });
    this.#processes = new Processes({
      host,
      bindings: this.#bindings,
      backings: this.#backings,
      placement: this.#placement,
      chooser: this.#chooser,
      forget: (binding) => this.#forget(binding),
      tell: moved,
    });
  }

  /** Of the last attach or flush that failed, when a host call was the reason. */
  get error(): HostError | null {
    return this.#backings.error;
  }

  /**
   * Passes a device through as an endpoint that reaches `space` now. Returns 0 or a negative errno, and then nothing is kept.
   * @throws RangeError when the endpoint has a device already.
   */
  add(endpoint: number, device: HostDevice, space: AddressSpace | null): number {
    requireNumber('Binder', 'endpoint', endpoint);
    requireObject('Binder', 'device', device, 'HostDevice', ['detach']);
    if (space !== null) requireObject('Binder', 'space', space, 'AddressSpace', ['enumerate']);
    if (this.#bindings.get(endpoint) !== undefined) throw new RangeError(`endpoint 0x${endpoint.toString(16)} has a device already`);
    const group = this.#groups.of(device);
    const release = this.#confine(endpoint, device, group);
    if (typeof release === 'number') {
      this.#groups.left(group);
      return release;
    }
    const stage = this.#stageOf(endpoint);
    const binding: Binding = { endpoint, pasid: NO_PASID, device, group, release, wanted: space, stage, reached: null };
    group.members.add(binding);
    this.#bindings.put(binding);
    // Who was alone in the group may have PASIDs that he cannot have any longer.
    for (const member of group.members) this.#processes.review(member);
    const result = this.#placement.settle(group);
    if (result < 0) this.#forget(binding);
    return result;
  }

  /** Takes the device off the target, blocked. Returns 0 or a negative errno, and then it stays. */
  remove(endpoint: number): number {
    requireNumber('Binder', 'endpoint', endpoint);
    const binding = this.#bindings.get(endpoint);
    if (binding === undefined) return 0;
    this.#processes.lift(binding);
    const path = binding.group.backing?.path;
    const result = path?.detach(binding.device) ?? 0;
    if (result < 0) {
      this.#backings.error = path!.error;
      this.#processes.review(binding);
      return result;
    }
    this.#processes.remove(binding);
    this.#asked.setDirectory(endpoint, null);
    this.#forget(binding);
    return 0;
  }

  /** The same, come what may: a device that cannot be detached is closed. Returns why, or null. */
  expel(endpoint: number): HostError | null {
    requireNumber('Binder', 'endpoint', endpoint);
    const binding = this.#bindings.get(endpoint);
    if (binding === undefined || this.remove(endpoint) === 0) return null;
    const error = this.#backings.error ?? new HostError('detach', errno.EIO, undefined, binding.device.name);
    this.#processes.remove(binding);
    this.#asked.setDirectory(endpoint, null);
    const closing = binding.device.close();
    this.#forget(binding);
    return closing ?? error;
  }

  /**
   * The path of an endpoint, or of one PASID of it, and why; `blocked` when it reaches nothing, with the reason where that is not the guest's wish. null:
   * it is not passed through, or has no such PASID.
   */
  choiceOf(endpoint: number, pasid = NO_PASID): Choice | null {
    requireNumber('Binder', 'endpoint', endpoint);
    requireNumber('Binder', 'pasid', pasid);
    const refusedPasid = this.#processes.refusalOf(endpoint, pasid);
    if (refusedPasid !== null) return { path: 'blocked', refused: refusedPasid };
    const binding = pasid === NO_PASID ? this.#bindings.get(endpoint) : this.#processes.bindingOf(endpoint, pasid);
    if (!binding) return null;
    const choice = binding.group.choiceOf(binding, this.#chooser.wish) ?? (pasid === NO_PASID ? null : { path: 'blocked', refused: [] });
    return pasid === NO_PASID ? this.#asked.withBlindness(endpoint, choice) : choice;
  }

  /** Counters of all paths that live now, with the names of their spaces. */
  counters(): { readonly space: string; readonly path: string; readonly counters: PathCounters }[] {
    return this.#backings.all.map(({ space, path }) => ({
      space: space.name,
      path: path.name,
      counters: { ...path.counters },
    }));
  }

  attach(endpoint: number, space: AddressSpace | null, pasid = NO_PASID): number {
    requireNumber('Binder', 'endpoint', endpoint);
    requireNumber('Binder', 'pasid', pasid);
    if (space !== null) requireObject('Binder', 'space', space, 'AddressSpace', ['enumerate']);
    const binding = this.#bindings.get(endpoint);
    if (binding === undefined) return 0;
    if (pasid !== NO_PASID) {
      this.#asked.pages?.forget(endpoint, pasid);
      return this.#processes.attach(binding, pasid, space, this.#stageOf(endpoint, pasid));
    }
    const { wanted: before, stage: stageBefore } = binding;
    const stage = this.#stageOf(endpoint);
    if (before === space && sameStage(stageBefore, stage)) return 0;
    binding.wanted = space;
    binding.stage = stage;
    this.#asked.pages?.forget(endpoint, NO_PASID);
    const result = this.#placement.settle(binding.group);
    if (result === 0) return 0;
    if (stage !== null || isOfGuest(space) || (space === null && isOfGuest(before))) {
      // A guest that changed its own tables has left the old space for good.
      this.#placement.abandon(binding);
    } else binding.wanted = before;
    this.#tell(binding.group);
    return result;
  }

  block(endpoint: number): void {
    requireNumber('Binder', 'endpoint', endpoint);
    const binding = this.#bindings.get(endpoint);
    if (binding === undefined || this.attach(endpoint, null) === 0) return;
    this.#placement.abandon(binding);
    this.#tell(binding.group);
  }

  directory(endpoint: number, directory: PasidDirectory | null): void {
    const isWanted = this.#host.pasids !== undefined || directory?.ofEndpoint === true;
    const isOurs = isWanted && this.#bindings.get(endpoint) !== undefined;
    this.#asked.setDirectory(endpoint, isOurs ? directory : null);
  }

  changed(space: AddressSpace, first: number, last: number): void {
    this.#backings.changed(space, first, last);
  }

  invalidated(words: Int32Array): void {
    this.#backings.invalidated(words);
  }

  answered(endpoint: number, pasid: number, group: number, answer: PageAnswer): void {
    this.#backings.hardware.answered(endpoint, pasid, group, answer);
    this.#asked.pages?.answered(endpoint, pasid, group, answer);
  }

  /** Tells the target what hardware that walks its guest's tables has said since, and fills what devices have asked for. */
  poll(): void {
    this.#backings.hardware.poll();
    this.#asked.pages?.poll();
  }

  /** File descriptors that are readable when `poll` has something to do; others when paths change. */
  get eventDescriptors(): readonly number[] {
    const { pages } = this.#asked;
    return [...this.#backings.hardware.eventDescriptors, ...(pages === null ? [] : [pages.queue.descriptor])];
  }

  flush(): number {
    return this.#backings.flush();
  }

  /**
   * From now on the wish is another: every space goes to the path that it has by that, with its devices, while the guest runs. Returns 0, or a negative
   * errno when a space stays where it was.
   * @throws RangeError for a wish that names no path.
   */
  changePath(wish: PathWish): number {
    checkWish(wish);
    this.#chooser.wish = wish;
    for (const group of this.#deviceGroups())
      if (this.#chooser.pasidsOf(group) !== 'own') for (const member of group.members) this.#processes.lift(member);
    const parts = { backings: this.#backings, chooser: this.#chooser, placement: this.#placement };
    let result = 0;
    for (const backing of this.#backings.all) {
      const answer = changePathOf(backing, parts);
      if (result === 0 && backing.space !== NOWHERE) result = answer;
    }
    // Those that reach nothing are kept attached on some paths, and are not on others.
    for (const group of this.#deviceGroups()) {
      const isPlaced = group.backing !== null && group.backing.space !== NOWHERE;
      const answer = isPlaced ? 0 : this.#placement.settle(group);
      if (result === 0) result = answer;
      for (const member of group.members) this.#processes.review(member);
    }
    return result;
  }

  /** Guest RAM is other than it was. Devices of a path that cannot follow are blocked: what has gone may be somebody else's by now. */
  memoryChanged(): void {
    this.#sharedRam.add();
    this.#remap();
    this.#sharedRam.drop();
  }

  #remap(): void {
    for (const backing of this.#backings.all) {
      const result = backing.path.remap();
      this.#backings.took(backing);
      if (result >= 0) {
        for (const group of backing.groups) this.#tell(group);
        continue;
      }
      this.#backings.error = backing.path.error;
      this.#placement.giveUpAll(backing, backing.path.error);
    }
  }

  /** Hosts that can are to remember what devices write: said before guest memory is logged, and, that it is not any more, after. */
  trackDirty(on: boolean): void {
    requireBoolean('Binder', 'on', on);
    for (const { path } of this.#backings.all) path.trackDirty(on);
  }

  /** Why `noteWrites` says more than was written, for each space of which it does. */
  get inexactWrites(): readonly string[] {
    return this.#backings.all.flatMap(({ space, path }) => (path.inexact === null ? [] : [`${space.name}: ${path.inexact}`]));
  }

  /** Says to guest memory what passed-through devices may have written since the last time. */
  noteWrites(): void {
    for (const { path } of this.#backings.all) path.noteWrites();
  }

  /** Blocks every endpoint and frees what the paths hold on the host. Returns what could not be done as it should. */
  close(): HostError[] {
    const errors = this.#bindings.endpoints.map((endpoint) => this.expel(endpoint)).filter((error) => error !== null);
    this.#sharedRam.close();
    this.#asked.close();
    return errors;
  }

  #demandOf(device: HostDevice): DemandPlace | null {
    const binding = this.#bindings.of(device);
    const space = binding?.group.backing?.demand;
    return binding === undefined || !space ? null : { endpoint: binding.endpoint, space };
  }

  /** Of endpoints; each PASID that is attached for itself is a group more. */
  #deviceGroups(): Set<DeviceGroup> {
    return new Set(this.#bindings.all.filter(({ pasid }) => pasid === NO_PASID).map(({ group }) => group));
  }

  #stageOf(endpoint: number, pasid?: number): FirstStage | null {
    return this.#target?.stageOf?.(endpoint, pasid) ?? null;
  }

  /** Tells the target what the device's hardware cannot map. Returns what takes that back, or a negative errno. */
  #confine(endpoint: number, device: HostDevice, group: DeviceGroup): (() => void) | number {
    try {
      return confine(this.#host, device, { target: this.#target, endpoint, group });
    } catch (caught) {
      const error = hostErrorOf(caught);
      this.#backings.error = error;
      return -error.errno;
    }
  }

  /** The device has left its group, which may agree now. */
  #forget(binding: Binding): void {
    const { endpoint, pasid, group, device } = binding;
    this.#bindings.delete(binding);
    this.#asked.pages?.forget(endpoint, pasid);
    group.members.delete(binding);
    group.backing?.path.moved(device);
    seal(device);
    binding.release();
    if (group.members.size > 0) this.#placement.settle(group);
    else {
      this.#placement.leave(group);
      this.#groups.left(group);
    }
  }

  #tell(group: DeviceGroup): void {
    for (const member of group.members) {
      this.#moved(member.endpoint, member.pasid);
      if (member.pasid === NO_PASID) this.#processes.review(member);
    }
  }
}

/** Whether tables of the guest's lead its endpoints to the space. */
function isOfGuest(space: AddressSpace | null): boolean {
  return space !== null && (space.attachedBy ?? space.owner) === 'guest';
}
