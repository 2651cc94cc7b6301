import { errno } from '../host/errno.ts';
import type { Host } from '../host/host.ts';
import type { AddressSpace, FirstStage } from '../target/target.ts';
import type { Backings } from './backings.ts';
import type { Bindings } from './bindings.ts';
import type { Choice } from './choose.ts';
import type { Chooser } from './chooser.ts';
import { type Binding, DeviceGroup } from './device-group.ts';
import type { Placement } from './placement.ts';
import { seal } from './seal.ts';

/** PASIDs of one endpoint at most; others stay blocked. */
const LIMIT = 1024;

/** What a guest wants of the requests of an endpoint that carry a PASID. */
interface Process {
  readonly endpoint: number;
  readonly pasid: number;
  wanted: AddressSpace;
  stage: FirstStage | null;
  /** What hardware has for it alone. */
  binding: Binding | null;
  /** See Processes.#placeOf; null: it was lifted. */
  place: string | null;
  /** The host refused it last. */
  failure: string | null;
}

/** The PASID is attached for itself; or what its device is attached to answers for it. */
const OWN = 'own';
const CARRIED = 'carried';

export interface ProcessParts {
  readonly host: Host;
  readonly bindings: Bindings;
  readonly backings: Backings;
  readonly placement: Placement;
  readonly chooser: Chooser;
  /** The binding is none any more: its group leaves its backing. */
  forget(binding: Binding): void;
  /** Where the PASID is may be another answer now. */
  tell(endpoint: number, pasid: number): void;
}

/**
 * PASIDs of passed-through endpoints. Each is attached as a device of its own (Host.pasids), on the path of the space that it reaches, unless what its
 * device is attached to answers for PASIDs too (an SMMUv3's stream table entry). What it is refused for is kept with it, and it is blocked.
 */
export class Processes {
  readonly #parts: ProcessParts;
  readonly #endpoints = new Map<number, Map<number, Process>>();

  constructor(parts: ProcessParts) {
    this.#parts = parts;
  }

  /**
   * From now on the requests of the endpoint that carry the PASID reach `space`; null: they are blocked. Returns 0 or a negative errno: then they are
   * blocked, and it may be asked for again.
   */
  attach(device: Binding, pasid: number, space: AddressSpace | null, stage: FirstStage | null): number {
    const { endpoint } = device;
    const mine = this.#endpoints.get(endpoint) ?? new Map<number, Process>();
    const known = mine.get(pasid);
    if (space === null) {
      if (known === undefined) return 0;
      this.#drop(known);
      mine.delete(pasid);
      if (mine.size === 0) this.#endpoints.delete(endpoint);
      this.#parts.tell(endpoint, pasid);
      return 0;
    }
    if (known === undefined && mine.size >= LIMIT) return -errno.ENOSPC;
    const process = known ?? { endpoint, pasid, wanted: space, stage, binding: null, place: null, failure: null };
    process.wanted = space;
    process.stage = stage;
    this.#endpoints.set(endpoint, mine.set(pasid, process));
    return this.#settle(device, process);
  }

  /** The device stands elsewhere, or has other neighbours: its PASIDs may be attached now, or no longer. */
  review(device: Binding): void {
    for (const process of this.#endpoints.get(device.endpoint)?.values() ?? []) {
      if (this.#placeOf(device, process.pasid) !== process.place) this.#settle(device, process);
    }
  }

  /** The device goes where its PASIDs cannot be attached beside it: they are blocked until it is reviewed. */
  lift({ endpoint }: Binding): void {
    for (const process of this.#endpoints.get(endpoint)?.values() ?? []) {
      this.#drop(process);
      process.place = null;
    }
  }

  /** The endpoint has no device any more. */
  remove(device: Binding): void {
    this.lift(device);
    const mine = this.#endpoints.get(device.endpoint);
    this.#endpoints.delete(device.endpoint);
    for (const pasid of mine?.keys() ?? []) this.#parts.tell(device.endpoint, pasid);
  }

  has({ endpoint }: Binding): boolean {
    return this.#endpoints.has(endpoint);
  }

  /** By which a PASID is served: its own, or its device's. null: it is none of the guest's, or refused. */
  bindingOf(endpoint: number, pasid: number): Binding | null {
    const process = this.#endpoints.get(endpoint)?.get(pasid);
    return process?.binding ?? (process?.place === CARRIED ? (this.#parts.bindings.get(endpoint) ?? null) : null);
  }

  /** Why a PASID of the guest's is blocked; null: it is not, or none of the guest's. */
  refusalOf(endpoint: number, pasid: number): Choice['refused'] | null {
    const process = this.#endpoints.get(endpoint)?.get(pasid);
    if (process === undefined || process.place === CARRIED) return null;
    const reason = process.place === OWN ? process.failure : process.place;
    if (reason === null) return null;
    return process.binding?.group.refused ?? [{ path: this.#parts.chooser.wish, reason }];
  }

  #settle(device: Binding, process: Process): number {
    const { endpoint, pasid, wanted, stage } = process;
    const place = this.#placeOf(device, pasid);
    process.place = place;
    process.failure = null;
    let result = 0;
    if (place !== OWN) this.#drop(process);
    else {
      process.binding ??= this.#bind(device, pasid);
      const { binding } = process;
      binding.wanted = wanted;
      binding.stage = stage;
      result = this.#parts.placement.settle(binding.group);
      if (result < 0) {
        process.failure = this.#parts.backings.error?.message ?? 'the host could not follow';
        this.#parts.placement.abandon(binding);
      }
    }
    this.#parts.tell(endpoint, pasid);
    return result;
  }

  /** OWN, CARRIED, or why the PASID cannot be attached for itself. */
  #placeOf({ device, group }: Binding, pasid: number): string {
    const { host } = this.#parts;
    const { backing } = group;
    if (backing?.pasids === 'carried') return CARRIED;
    if (backing?.pasids === 'none') return `${backing.path.name}: beside such a first stage the hardware takes no PASIDs`;
    if (host.pasids === undefined) return `${host.kind} attaches no PASIDs`;
    if (group.members.size > 1) return `IOMMU group ${group.name} has several devices: the hardware would give the PASID to each of them`;
    return host.pasids.refuses(device, pasid) ?? OWN;
  }

  #bind({ endpoint, device }: Binding, pasid: number): Binding {
    // The hardware tells PASIDs apart: each is a group of its own.
    const group = new DeviceGroup(null);
    const process = this.#parts.host.pasids!.open(device, pasid);
    const binding = { endpoint, pasid, device: process, group, release: () => {}, wanted: null, stage: null, reached: null };
    group.members.add(binding);
    this.#parts.bindings.put(binding);
    return binding;
  }

  /** Hardware has it no longer; where the host does not let it go, its device is closed. */
  #drop(process: Process): void {
    const { binding } = process;
    if (binding === null) return;
    process.binding = null;
    const { device, group } = binding;
    if ((group.backing?.path.detach(device) ?? 0) < 0) {
      this.#parts.backings.error = group.backing!.path.error;
      seal(device);
    }
    this.#parts.forget(binding);
    device.close();
  }
}
