import { errno, HostError } from '../host/errno.ts';
import type { Host, HostDevice } from '../host/host.ts';
import { requireInteger, requireObject } from '../memory/arguments.ts';
import { GuestMemory } from '../memory/guest-memory.ts';
import { type AddressSpace, type FirstStage, type PageAnswer, sameStage, type Target, type TargetObserver } from '../target/target.ts';
import { type Candidate, type Choice, checkWish, choose, type PathWish } from './choose.ts';
import { confine } from './confinement.ts';
import { type Backing, type Binding, DeviceGroup } from './device-group.ts';
import { exchange } from './exchange.ts';
import { BLOCK_LIMIT, BLOCK_PAGES, DemandSpace } from './on-demand/demand-space.ts';
import { type DemandPlace, PageService } from './on-demand/page-service.ts';
import { type GuestHardware, NOWHERE, type PathContext, type PathCounters, type SpaceFollower, type StagedTarget } from './path.ts';
import { seal, sealAll } from './seal.ts';
import { SharedRam } from './shared-ram.ts';
import type { TableWatch } from './table-watch.ts';
import { WatchedSpace, WatchedTables } from './watched-tables.ts';

export interface BinderOptions {
  /** `auto` (default), or the only path that may serve. */
  readonly path?: PathWish;
  /** Hears of endpoints whose path may be another one now, whatever was the reason. */
  readonly moved?: (endpoint: number) => void;
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

const BLOCKED: FirstStage = { kind: 'abort' };

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
  readonly #memory: GuestMemory;
  readonly #sharedRam: SharedRam;
  #wish: PathWish;
  readonly #target: BinderOptions['target'];
  readonly #tables: WatchedTables | null;
  readonly #residentBlocks: number;
  /** Made for the first space that is filled on demand. */
  #pages: PageService | null = null;
  readonly #moved: (endpoint: number) => void;
  readonly #schedule: (slice: () => void) => void;
  #scheduled = false;
  readonly #bindings = new Map<number, Binding>();
  readonly #groups = new Map<string, DeviceGroup>();
  readonly #backings = new Map<AddressSpace, Backing>();
  /** What changed since the last flush, and what that could not finish. */
  readonly #pending = new Set<Backing>();
  /** Hardware that walks the guest's tables, each with one of its backings. */
  readonly #hardware = new Map<GuestHardware, Backing>();
  #error: HostError | null = null;

  /** @throws RangeError for a wish that names no path. */
  constructor(host: Host, memory: GuestMemory, options: BinderOptions = {}) {
    const { path = 'auto', moved = () => {}, schedule = setImmediate, target, watch, residentPages = BLOCK_LIMIT * BLOCK_PAGES } = options;
    requireObject('Binder', 'host', host, 'Host', ['openDevice', 'createSpace']);
    if (!(memory instanceof GuestMemory)) throw new TypeError('Binder: memory is no GuestMemory');
    checkWish(path);
    requireInteger('Binder', 'residentPages', residentPages, BLOCK_PAGES, 2 ** 32);
    this.#residentBlocks = Math.floor(residentPages / BLOCK_PAGES);
    this.#host = host;
    this.#memory = memory;
    this.#sharedRam = new SharedRam(host, memory);
    this.#wish = path;
    this.#target = target;
    this.#tables = watch === undefined ? null : new WatchedTables(watch);
    this.#moved = moved;
    this.#schedule = (slice) => schedule(slice);
  }

  /** Of the last attach or flush that failed, when a host call was the reason. */
  get error(): HostError | null {
    return this.#error;
  }

  /**
   * Passes a device through as an endpoint that reaches `space` now. Returns 0 or a negative errno, and then nothing is kept.
   * @throws RangeError when the endpoint has a device already.
   */
  add(endpoint: number, device: HostDevice, space: AddressSpace | null): number {
    if (this.#bindings.has(endpoint)) throw new RangeError(`endpoint 0x${endpoint.toString(16)} has a device already`);
    const group = this.#groupOf(device);
    const release = this.#confine(endpoint, device, group);
    if (typeof release === 'number') {
      this.#groupLeft(group);
      return release;
    }
    const stage = this.#stageOf(endpoint);
    const binding = { endpoint, device, group, release, wanted: space, stage, reached: null };
    group.members.add(binding);
    this.#bindings.set(endpoint, binding);
    const result = this.#settle(group);
    if (result < 0) this.#forget(binding);
    return result;
  }

  /** Takes the device off the target, blocked. Returns 0 or a negative errno, and then it stays. */
  remove(endpoint: number): number {
    const binding = this.#bindings.get(endpoint);
    if (binding === undefined) return 0;
    const path = binding.group.backing?.path;
    const result = path?.detach(binding.device) ?? 0;
    if (result < 0) {
      this.#error = path!.error;
      return result;
    }
    this.#forget(binding);
    return 0;
  }

  /** The same, come what may: a device that cannot be detached is closed. Returns why, or null. */
  expel(endpoint: number): HostError | null {
    const binding = this.#bindings.get(endpoint);
    if (binding === undefined || this.remove(endpoint) === 0) return null;
    const error = this.#error ?? new HostError('detach', errno.EIO, undefined, binding.device.name);
    const closing = binding.device.close();
    this.#forget(binding);
    return closing ?? error;
  }

  /** The path of an endpoint and why; `blocked` when it reaches nothing, with the reason where that is not the guest's wish. */
  choiceOf(endpoint: number): Choice | null {
    const binding = this.#bindings.get(endpoint);
    if (binding === undefined) return null;
    const reason = binding.group.refusal(binding);
    if (reason !== null) return { path: 'blocked', refused: [{ path: this.#wish, reason }] };
    const { backing, refused } = binding.group;
    if (refused !== null) return { path: 'blocked', refused };
    if (backing === null) return null;
    const { path, choice, space } = backing;
    const part = path.unfinished ? [`${space.name} is mapped in part: what is missing is blocked, and follows by itself`] : [];
    const missing = [...part, ...path.leftOut].map((reason) => ({ path: choice.path, reason }));
    return { path: choice.path, refused: [...choice.refused, ...missing] };
  }

  /** Counters of all paths that live now, with the names of their spaces. */
  counters(): { readonly space: string; readonly path: string; readonly counters: PathCounters }[] {
    return [...this.#backings.values()].map(({ space, path }) => ({
      space: space.name,
      path: path.name,
      counters: { ...path.counters },
    }));
  }

  attach(endpoint: number, space: AddressSpace | null): number {
    const binding = this.#bindings.get(endpoint);
    if (binding === undefined) return 0;
    const { wanted: before, stage: stageBefore } = binding;
    const stage = this.#stageOf(endpoint);
    if (before === space && sameStage(stageBefore, stage)) return 0;
    binding.wanted = space;
    binding.stage = stage;
    this.#pages?.forget(endpoint);
    const result = this.#settle(binding.group);
    if (result === 0) return 0;
    if (stage !== null || space?.owner === 'guest' || (space === null && before?.owner === 'guest')) {
      // A guest that changed its own tables has left the old space for good: better no translation than a stale one.
      binding.wanted = null;
      binding.stage = stage && BLOCKED;
      if (stage === null || this.#settle(binding.group) < 0) this.#block(binding.group, true);
    } else binding.wanted = before;
    this.#tell(binding.group);
    return result;
  }

  changed(space: AddressSpace, first: number, last: number): void {
    const backing = this.#backings.get(space);
    if (backing === undefined) return;
    backing.path.changed(first, last);
    this.#pending.add(backing);
  }

  invalidated(words: Int32Array): void {
    for (const [hardware, backing] of this.#hardware) {
      hardware.invalidated(words);
      this.#pending.add(backing);
    }
  }

  answered(endpoint: number, pasid: number, group: number, answer: PageAnswer): void {
    for (const hardware of this.#hardware.keys()) hardware.answered(endpoint, pasid, group, answer);
    this.#pages?.answered(endpoint, pasid, group, answer);
  }

  /** Tells the target what hardware that walks its guest's tables has said since, and fills what devices have asked for. */
  poll(): void {
    for (const hardware of [...this.#hardware.keys()]) hardware.poll();
    this.#pages?.poll();
  }

  /** File descriptors that are readable when `poll` has something to do; others when paths change. */
  get eventDescriptors(): readonly number[] {
    const own = this.#pages === null ? [] : [this.#pages.queue.descriptor];
    return [...[...this.#hardware.keys()].flatMap(({ eventDescriptors }) => eventDescriptors), ...own];
  }

  flush(): number {
    let result = 0;
    for (const backing of this.#pending) {
      const answer = this.#flushOne(backing);
      if (result === 0) result = answer;
    }
    return result;
  }

  #flushOne(backing: Backing): number {
    const { path } = backing;
    const wasBehind = path.pending;
    const leftOut = path.leftOut.length;
    const answer = path.flush();
    if (!path.pending) this.#pending.delete(backing);
    if (answer < 0) this.#error = path.error;
    if (path.unfinished) this.#goOn();
    if (answer < 0 || wasBehind || path.pending || path.leftOut.length !== leftOut) for (const group of backing.groups) this.#tell(group);
    if (this.#sees(backing)) return answer;
    for (const group of [...backing.groups]) this.#giveUp(group, this.#refusal(backing));
    return answer;
  }

  /** Whether all tables that the path's space was read from are watched; where they are not, those that are tables no more are left. */
  #sees({ watched, path }: Backing): boolean {
    if (watched === null || !watched.isBlind) return true;
    this.#tables?.drop(watched);
    for (const { first, last } of watched.apertures) path.changed(first, last);
    path.flush();
    if (watched.isBlind) this.#error = watched.blindness;
    return !watched.isBlind;
  }

  #refusal({ choice, watched }: Backing): Choice['refused'] {
    return [...choice.refused, { path: choice.path, reason: watched?.blindness.message ?? '' }];
  }

  /** Where no path can take devices any more, they reach nothing. */
  #giveUp(group: DeviceGroup, refused: Choice['refused'] | null): void {
    for (const binding of group.members) {
      binding.wanted = null;
      binding.stage = binding.stage && BLOCKED;
    }
    this.#block(group, true);
    group.refused = refused;
    this.#tell(group);
  }

  /**
   * From now on the wish is another: every space goes to the path that it has by that, with its devices, while the guest runs. Returns 0, or a negative
   * errno when a space stays where it was.
   * @throws RangeError for a wish that names no path.
   */
  changePath(wish: PathWish): number {
    checkWish(wish);
    this.#wish = wish;
    let result = 0;
    for (const backing of [...this.#backings.values()]) {
      const answer = this.#exchange(backing);
      if (result === 0 && backing.space !== NOWHERE) result = answer;
    }
    // Those that reach nothing are kept attached on some paths, and are not on others.
    for (const group of new Set([...this.#bindings.values()].map((binding) => binding.group))) {
      if (group.backing !== null && group.backing.space !== NOWHERE) continue;
      const answer = this.#settle(group);
      if (result === 0) result = answer;
    }
    return result;
  }

  #exchange(before: Backing): number {
    const [group] = before.groups;
    const [member] = group.members;
    const { served, choice } = choose(this.#context(before.space, group, member.stage), this.#wish);
    if (served === null) return this.#unserved(choice);
    if (choice.path === before.choice.path) return 0;
    const after = this.#make(before.space, group, member.stage, served, choice);
    if (typeof after === 'number') return after;
    const lost: DeviceGroup[] = [];
    let result = exchange(before, after, lost);
    if (result < 0) this.#error = after.path.error;
    // What cannot see goes back as it came.
    else if (!this.#sees(after)) {
      const blindness = this.#error;
      result = exchange(after, before, lost) || -errno.ENOSPC;
      this.#error = blindness;
    }
    const [stays, goes] = result === 0 ? [after, before] : [before, after];
    this.#backings.set(stays.space, stays);
    this.#drop(goes);
    for (const other of lost) this.#giveUp(other, null);
    if (stays.path.pending) this.#pending.add(stays);
    if (stays.path.unfinished) this.#goOn();
    for (const other of stays.groups) this.#tell(other);
    return result;
  }

  /** Guest RAM is other than it was. Devices of a path that cannot follow are blocked: what has gone may be somebody else's by now. */
  memoryChanged(): void {
    this.#sharedRam.add();
    this.#remap();
    this.#sharedRam.drop();
  }

  #remap(): void {
    for (const backing of [...this.#backings.values()]) {
      const result = backing.path.remap();
      if (backing.path.pending) this.#pending.add(backing);
      if (backing.path.unfinished) this.#goOn();
      if (result >= 0) {
        for (const group of backing.groups) this.#tell(group);
        continue;
      }
      this.#error = backing.path.error;
      for (const group of [...backing.groups]) this.#giveUp(group, null);
    }
  }

  /** Says to guest memory what passed-through devices may have written since the last time. */
  noteWrites(): void {
    for (const { path } of this.#backings.values()) path.noteWrites();
  }

  /** Blocks every endpoint and frees what the paths hold on the host. Returns what could not be done as it should. */
  close(): HostError[] {
    const errors = [...this.#bindings.keys()].map((endpoint) => this.expel(endpoint)).filter((error) => error !== null);
    this.#sharedRam.close();
    this.#tables?.close();
    this.#pages?.close();
    return errors;
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

  #stageOf(endpoint: number): FirstStage | null {
    return this.#target?.stageOf?.(endpoint) ?? null;
  }

  #groupOf(device: HostDevice): DeviceGroup {
    const name = device.iommuGroup;
    const group = (name === null ? undefined : this.#groups.get(name)) ?? new DeviceGroup(name);
    if (name !== null) this.#groups.set(name, group);
    return group;
  }

  /** Tells the target what the device's hardware cannot map. Returns what takes that back, or a negative errno. */
  #confine(endpoint: number, device: HostDevice, group: DeviceGroup): (() => void) | number {
    try {
      return confine(this.#host, device, { target: this.#target, endpoint, group });
    } catch (error) {
      if (!(error instanceof HostError)) throw error;
      this.#error = error;
      return -error.errno;
    }
  }

  /** Brings a group to where all of it is wanted, and blocks it where there is no such place. Returns 0 or a negative errno. */
  #settle(group: DeviceGroup): number {
    const { wanted, stage } = group.agreed ?? { wanted: null, stage: BLOCKED };
    const space = wanted ?? (stage !== null && this.#keepsAttached(group, stage) ? NOWHERE : null);
    const result = space === null ? this.#block(group) : this.#move(group, space, stage);
    if (result === 0) this.#tell(group);
    return result;
  }

  /** Whether the fastest path takes a device that reaches no space, or has tables of the guest's for PASIDs only. */
  #keepsAttached(group: DeviceGroup, stage: FirstStage): boolean {
    if (this.#target?.stageOf === undefined || group.members.size === 0) return false;
    return choose(this.#context(NOWHERE, group, stage), this.#wish).served !== null;
  }

  #context(space: AddressSpace, group: DeviceGroup, stage: FirstStage | null): PathContext {
    const [{ device }] = group.members;
    const staged = this.#target === undefined ? {} : { target: this.#target };
    return { space, memory: this.#memory, host: this.#host, device, stage, isWatched: this.#tables !== null, ...staged };
  }

  /** `anyhow`: there is no staying, so what cannot be detached is closed. */
  #block(group: DeviceGroup, anyhow = false): number {
    const { backing } = group;
    for (const { device } of group.members) {
      const result = backing?.path.detach(device) ?? 0;
      if (result === 0) continue;
      this.#error = backing!.path.error;
      if (anyhow || result === -errno.ENODEV) {
        seal(device);
        backing!.path.moved(device);
      } else {
        this.#return(group, backing);
        return result;
      }
    }
    sealAll([...group.members].map(({ device }) => device));
    this.#leave(group);
    return 0;
  }

  #move(group: DeviceGroup, space: AddressSpace, stage: FirstStage | null): number {
    const after = this.#backings.get(space) ?? this.#back(space, group, stage);
    if (typeof after === 'number') return after;
    const before = group.backing;
    // A container lets a group in once all of it has left the one before.
    const together = before !== null && before !== after && group.members.size > 1 && !this.#host.capabilities.replace;
    let result = 0;
    let failed = after.path;
    for (const { device } of together ? group.members : []) {
      if (result === 0) result = before!.path.detach(device);
      if (result < 0) failed = before!.path;
    }
    for (const { device, endpoint } of group.members) {
      if (result === 0) result = after.path.attach(device, { endpoint, stage });
    }
    const isBlind = result === 0 && !this.#sees(after);
    if (isBlind) result = -errno.ENOSPC;
    if (result < 0) {
      this.#error = isBlind ? this.#error : failed.error;
      if (isBlind) group.refused = this.#refusal(after);
      if (before !== after) {
        for (const { device } of group.members) after.path.moved(device);
        this.#return(group, before);
      }
      this.#releaseUnused(after);
      return result;
    }
    // Blocked in the place of what was refused, it is still that.
    if (space !== NOWHERE) group.refused = null;
    for (const member of group.members) member.reached = stage;
    if (before !== after) {
      for (const { device } of group.members) before?.path.moved(device);
      this.#leave(group);
      group.backing = after;
      after.groups.add(group);
    }
    if (after.path.pending) this.#pending.add(after);
    if (after.path.unfinished) this.#goOn();
    return 0;
  }

  /** Devices may have left for a moment: they go back, or, when the host does not let them, are blocked. */
  #return(group: DeviceGroup, to: Backing | null): void {
    let result = 0;
    for (const { device, endpoint, reached } of group.members) {
      to?.path.moved(device);
      if (to !== null && result === 0) result = to.path.attach(device, { endpoint, stage: reached });
      else result = -errno.ENODEV;
    }
    if (result === 0) return;
    const devices = [...group.members].map(({ device }) => device);
    for (const device of devices) to?.path.moved(device);
    sealAll(devices);
    this.#leave(group);
  }

  #back(space: AddressSpace, group: DeviceGroup, stage: FirstStage | null): Backing | number {
    const { served, choice } = choose(this.#context(space, group, stage), this.#wish);
    if (served === null) {
      group.refused = choice.refused;
      return this.#unserved(choice);
    }
    const backing = this.#make(space, group, stage, served, choice);
    if (typeof backing !== 'number') this.#backings.set(space, backing);
    return backing;
  }

  #unserved({ refused }: Choice): number {
    const reasons = refused.map(({ path, reason }) => `${path}: ${reason}`).join('; ');
    this.#error = new HostError('attach', errno.EOPNOTSUPP, undefined, reasons);
    return -errno.EOPNOTSUPP;
  }

  #make(space: AddressSpace, group: DeviceGroup, stage: FirstStage | null, served: Candidate, choice: Choice): Backing | number {
    const context = this.#context(space, group, stage);
    try {
      const watched = served.hearing === 'watched' && this.#tables !== null ? new WatchedSpace(space, this.#tables) : null;
      const demand = served.hearing === 'on demand' ? new DemandSpace(space, this.#memory, this.#residentBlocks) : null;
      const requests = demand === null ? {} : { pageRequests: this.#pageService().queue };
      const path = served.kind.create({ ...context, ...requests, space: watched ?? demand ?? space });
      const backing: Backing = { space, path, choice, watched, demand, groups: new Set<DeviceGroup>() };
      const follower = watched ?? demand;
      if (follower !== null) follower.path = this.#following(backing);
      const { guestHardware } = backing.path;
      if (guestHardware !== undefined && !this.#hardware.has(guestHardware)) this.#hardware.set(guestHardware, backing);
      return backing;
    } catch (error) {
      if (!(error instanceof HostError)) throw error;
      this.#error = error;
      return -error.errno;
    }
  }

  /** @throws HostError */
  #pageService(): PageService {
    this.#pages ??= new PageService(this.#host.pageRequests!.createQueue(), this.#target ?? {}, (device) => this.#demandOf(device));
    return this.#pages;
  }

  #demandOf(device: HostDevice): DemandPlace | null {
    for (const binding of this.#bindings.values()) {
      if (binding.device !== device) continue;
      const space = binding.group.backing?.demand ?? null;
      return space && { endpoint: binding.endpoint, space };
    }
    return null;
  }

  /** What was told is carried out at once: whoever made the store, or waits for the page, goes on when the hardware agrees. */
  #following(backing: Backing): SpaceFollower {
    return {
      changed: (first, last) => {
        backing.path.changed(first, last);
        this.#pending.add(backing);
      },
      settle: () => this.#flushOne(backing) === 0 && !backing.path.pending,
    };
  }

  #leave(group: DeviceGroup): void {
    const { backing } = group;
    group.backing = null;
    if (backing === null) return;
    backing.groups.delete(group);
    this.#releaseUnused(backing);
  }

  #releaseUnused(backing: Backing): void {
    if (backing.groups.size > 0) return;
    this.#backings.delete(backing.space);
    this.#drop(backing);
  }

  #drop(backing: Backing): void {
    this.#pending.delete(backing);
    this.#unlist(backing);
    if (backing.watched !== null) this.#tables?.drop(backing.watched);
    backing.path.close();
  }

  #unlist(backing: Backing): void {
    const { guestHardware } = backing.path;
    if (guestHardware === undefined || this.#hardware.get(guestHardware) !== backing) return;
    this.#hardware.delete(guestHardware);
    for (const other of this.#backings.values()) {
      if (other.path.guestHardware !== guestHardware) continue;
      this.#hardware.set(guestHardware, other);
      if (other.path.pending) this.#pending.add(other);
      return;
    }
  }

  /** The device has left its group, which may agree now. */
  #forget(binding: Binding): void {
    const { group, device } = binding;
    this.#bindings.delete(binding.endpoint);
    this.#pages?.forget(binding.endpoint);
    group.members.delete(binding);
    group.backing?.path.moved(device);
    seal(device);
    binding.release();
    if (group.members.size > 0) this.#settle(group);
    else {
      this.#leave(group);
      this.#groupLeft(group);
    }
  }

  #groupLeft(group: DeviceGroup): void {
    if (group.members.size === 0 && group.name !== null) this.#groups.delete(group.name);
  }

  #tell(group: DeviceGroup): void {
    for (const { endpoint } of group.members) this.#moved(endpoint);
  }
}
