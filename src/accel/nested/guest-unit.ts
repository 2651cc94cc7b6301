import { errno, HostError, hostErrorOf } from '../../host/errno.ts';
import type { AttachmentPoint, Host, HostDevice, NestingHardware, NestingParent, StageEvent } from '../../host/host.ts';
import { PFN_LIMIT } from '../../memory/address.ts';
import type { GuestMemory } from '../../memory/guest-memory.ts';
import { type FirstStage, type HardwareEvent, type PageAnswer, sameStage } from '../../target/target.ts';
import type { GuestHardware, Requester } from '../path.ts';
import { seal } from '../seal.ts';
import { SecondStage } from '../second-stage/second-stage.ts';
import { type GuestStage, GuestStages } from './guest-stages.ts';
import { PageRequests } from './page-requests.ts';

export interface UnitParts {
  readonly host: Host;
  readonly memory: GuestMemory;
  readonly device: HostDevice;
  readonly queue: boolean;
  report(event: HardwareEvent): void;
}

const ABORT: FirstStage = { kind: 'abort' };

/** Who makes the requests, and what they go through. */
interface Stand extends Requester {
  readonly stage: FirstStage;
}

/** Where the guest wants a device. */
interface Place extends Stand {
  readonly owner: object;
  /** null: the stage is abort or bypass. */
  readonly installed: GuestStage | null;
  /** What it is attached to for that. */
  point: AttachmentPoint;
  /** It is kept at abort until the hardware has forgotten what it must. */
  waiting: boolean;
}

const known = new WeakMap<SecondStage, GuestUnit>();

/**
 * One guest's part of the hardware: the nesting parent with all of its RAM, the devices on it, each at a first stage of the guest's, at bypass
 * or at abort, and never at nothing. `owner`: the path that a device came by; what changes in its space concerns the stages that it brought.
 */
export class GuestUnit implements GuestHardware {
  readonly #second: SecondStage;
  readonly #parent: NestingParent;
  readonly #stages: GuestStages;
  readonly #requests: PageRequests;
  readonly #places = new Map<HostDevice, Place>();
  readonly #report: UnitParts['report'];
  /** Stages that have something to forget. */
  readonly #dirty = new Set<GuestStage>();
  /** Of them those that the hardware did not forget when it was told to; and whether it did not carry out the guest's commands. */
  readonly #stuck = new Set<GuestStage>();
  #stale = false;
  #waiting = 0;
  #users = 0;
  #error: HostError | null = null;

  private constructor(second: SecondStage, { host, report }: UnitParts) {
    this.#second = second;
    this.#parent = second.parent;
    this.#stages = new GuestStages(second.parent, host);
    this.#requests = new PageRequests(second.parent);
    this.#report = report;
  }

  /** The one of this host and guest; `leave` gives it back. @throws HostError */
  static join(parts: UnitParts): GuestUnit {
    const { host, memory, device, queue } = parts;
    const hardware = host.nesting!.hardwareOf(device) as NestingHardware;
    const second = SecondStage.join(host, memory, device, hardware, { tables: 'guest', queue });
    const unit = known.get(second) ?? new GuestUnit(second, parts);
    known.set(second, unit);
    unit.#users++;
    return unit;
  }

  get error(): HostError | null {
    return this.#error;
  }

  get pending(): boolean {
    return this.#dirty.size > 0 || this.#waiting > 0 || (this.#parent.commands?.pending ?? false);
  }

  /** The device's requests go through the stage; null: it has none. Returns 0 or a negative errno, and then the driver says where it is. */
  attach(device: HostDevice, { endpoint, pasid, stage: wanted }: Requester, owner: object): number {
    const stage = wanted ?? ABORT;
    const before = this.#places.get(device);
    // Somebody else's attempt may have left the device where it was not to stay.
    const isThere = before !== undefined && device.attachment === before.point;
    if (isThere && before.owner === owner && before.endpoint === endpoint && sameStage(before.stage, stage)) return 0;
    try {
      const named = this.#parent.name(device, endpoint);
      if (named < 0) return this.#failed(new HostError('IOMMU_VDEVICE_ALLOC', -named, undefined, device.name));
      const place = this.#place(device, { endpoint, pasid, stage }, owner);
      if (typeof place === 'number') return place;
      this.#places.set(device, place);
      this.#waiting += Number(place.waiting);
      if (before !== undefined) this.#vacate(before);
      return 0;
    } catch (error) {
      return this.#failed(hostErrorOf(error));
    }
  }

  /** @throws HostError when the hardware does not take the stage. */
  #place(device: HostDevice, requester: Stand, owner: object): Place | number {
    const { stage } = requester;
    const fixed = stage.kind === 'abort' || stage.kind === 'bypass';
    const installed = fixed ? null : this.#stages.take(device, stage, owner);
    const waiting = installed !== null && this.#isStale(installed);
    const point = waiting ? this.#fixed(device, 'abort') : (installed?.point ?? this.#fixed(device, stage.kind as 'abort' | 'bypass'));
    const result = device.attachment === point ? 0 : point.attach(device);
    if (result === 0) return { ...requester, owner, installed, point, waiting };
    const { error } = point;
    if (installed !== null) this.#drop(installed);
    if (installed?.pageRequests && !device.closed) {
      this.#stages.withoutRequests(device);
      return this.#place(device, requester, owner);
    }
    return this.#failed(error ?? new HostError('attach', -result));
  }

  #fixed(device: HostDevice, kind: 'abort' | 'bypass'): AttachmentPoint {
    return this.#parent.fixed(device, kind);
  }

  /** Returns 0 or a negative errno, and then the device is where it was. */
  detach(device: HostDevice, owner: object): number {
    const result = device.detach();
    if (result < 0) return this.#failed(new HostError('VFIO_DEVICE_DETACH_IOMMUFD_PT', -result, undefined, device.name));
    this.forget(device, owner);
    return 0;
  }

  /** The device is somebody else's now, if it came by this owner. */
  forget(device: HostDevice, owner: object): void {
    const place = this.#places.get(device);
    if (place?.owner !== owner) return;
    this.#places.delete(device);
    this.#vacate(place);
  }

  /** Pages of the owner's space mean something else: its stages have to forget them, unless the guest's own commands say so (SMMUv3). */
  changed(owner: object, first: number, last: number): void {
    if (this.#parent.commands !== null) return;
    for (const stage of this.#stages.of(owner)) {
      if (first === 0 && last >= PFN_LIMIT - 1) stage.point.invalidateAll();
      else stage.point.invalidate(first, last - first + 1);
      this.#dirty.add(stage);
    }
  }

  invalidated(words: Int32Array): void {
    this.#parent.commands?.add(words);
  }

  /** Guest RAM is other than it was. Returns 0 or a negative errno. */
  follow(): number {
    const result = this.#second.follow();
    return result < 0 ? this.#failed(this.#parent.space.error ?? new HostError('second stage', -result)) : 0;
  }

  /** The hardware forgets what it was told to. Devices that would meet what it did not forget are kept at abort until it has. */
  flush(): number {
    let result = 0;
    for (const stage of this.#dirty) {
      const answer = stage.point.sync();
      if (answer === 0) this.#forgotten(stage);
      else {
        this.#stuck.add(stage);
        result = this.#failed(stage.point.error ?? new HostError('invalidate', -answer));
      }
    }
    const { commands } = this.#parent;
    const answer = commands?.sync() ?? 0;
    this.#stale = answer < 0;
    if (answer < 0) result = this.#failed(commands?.error ?? new HostError('invalidate', -answer));
    if (result < 0 || this.#waiting > 0) for (const [device, place] of this.#places) this.#settle(device, place);
    return result;
  }

  #settle(device: HostDevice, place: Place): void {
    if (place.installed === null) return;
    // A closed device reaches nothing, and waits for nothing.
    const stale = !device.closed && this.#isStale(place.installed);
    if (stale === place.waiting) return;
    if (stale) this.#block(device, place);
    else if (!device.closed) {
      if (place.installed.point.attach(device) < 0) return;
      place.point = place.installed.point;
    }
    place.waiting = stale;
    this.#waiting += stale ? 1 : -1;
  }

  #block(device: HostDevice, place: Place): void {
    try {
      const abort = this.#fixed(device, 'abort');
      if (abort.attach(device) === 0) place.point = abort;
      else seal(device);
    } catch (error) {
      hostErrorOf(error);
      seal(device);
    }
  }

  poll(): void {
    for (const event of this.#parent.events()) this.#hear(event);
  }

  #hear(event: StageEvent): void {
    if (event.kind !== 'page-request') {
      this.#report(event);
      return;
    }
    const { id: endpoint, pasid, group, last, access, address, cookie } = event;
    if (last && !this.#requests.expect(endpoint, pasid, group, cookie)) return;
    this.#report({ kind: 'page-request', endpoint, pasid, group, last, access, address });
  }

  answered(endpoint: number, pasid: number, group: number, answer: PageAnswer): void {
    this.#requests.answer(endpoint, pasid, group, answer === 'success');
  }

  get eventDescriptors(): readonly number[] {
    return this.#parent.eventDescriptors;
  }

  get leftOut(): readonly string[] {
    return this.#second.leftOut;
  }

  get second(): Pick<SecondStage, 'attached' | 'trackDirty' | 'noteWrites' | 'inexact'> {
    return this.#second;
  }

  /** An owner is no more. Returns what could not be freed with the last one. */
  leave(owner: object): HostError | null {
    for (const [device, place] of this.#places) if (place.owner === owner) this.forget(device, owner);
    this.#users--;
    const error = this.#users === 0 ? this.#stages.close() : null;
    return this.#second.leave() ?? error;
  }

  #vacate({ endpoint, pasid, installed, waiting }: Place): void {
    // An SMMUv3's entry answers for all PASIDs of its stream.
    if (this.#parent.commands !== null) this.#requests.forgetEndpoint(endpoint);
    else this.#requests.forget(endpoint, pasid);
    this.#waiting -= Number(waiting);
    if (installed !== null) this.#drop(installed);
  }

  #drop(stage: GuestStage): void {
    if (this.#stages.drop(stage)) this.#forgotten(stage);
  }

  #forgotten(stage: GuestStage): void {
    this.#dirty.delete(stage);
    this.#stuck.delete(stage);
  }

  #isStale(stage: GuestStage): boolean {
    return this.#stale || this.#stuck.has(stage);
  }

  #failed(error: HostError): number {
    this.#error = error;
    return -(error.errno || errno.EIO);
  }
}
