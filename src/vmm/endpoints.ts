import type { Binder } from '../accel/binder.ts';
import { HostError } from '../host/errno.ts';
import type { Host, HostDevice } from '../host/host.ts';
import { requireString } from '../memory/arguments.ts';
import type { GuestMemory } from '../memory/guest-memory.ts';
import { type AddressSpace, NO_PASID, type Target } from '../target/target.ts';
import { EmulatedDevice } from './dma.ts';
import { type EndpointState, type MachineState, type StateListener, StateStore } from './machine-state.ts';
import type { Observation } from './observation.ts';

/** A host, and who binds its devices to the guest's spaces. */
export interface Hardware {
  readonly host: Host;
  readonly binder: Binder;
}

/** The endpoints of a machine: which there are, what stands at each, and what the control plane says of it. */
export class Endpoints {
  readonly #target: Target;
  readonly #memory: GuestMemory;
  readonly #hardware: Hardware | null;
  readonly #observation: Observation;
  readonly #store: StateStore;
  readonly #devices = new Map<number, HostDevice>();
  readonly #emulated = new Map<number, EmulatedDevice>();
  /** Of emulated devices that were removed. */
  readonly #past = { accesses: 0, faults: 0 };

  /** `hardware`: null where nothing can be passed through. */
  constructor(target: Target, memory: GuestMemory, hardware: Hardware | null, observation: Observation) {
    this.#target = target;
    this.#memory = memory;
    this.#hardware = hardware;
    this.#observation = observation;
    this.#store = new StateStore({ target: target.name, host: hardware?.host.kind ?? null });
  }

  get state(): MachineState {
    return this.#store.state;
  }

  listen(listener: StateListener): () => void {
    return this.#store.listen(listener);
  }

  /** Of emulated devices, those that were removed too. */
  totals(): { readonly accesses: number; readonly faults: number } {
    const totals = { ...this.#past };
    for (const { accesses, faults } of this.#emulated.values()) {
      totals.accesses += accesses;
      totals.faults += faults;
    }
    return totals;
  }

  /** As `Machine.emulate`. */
  emulate(endpoint: number): EmulatedDevice {
    this.#checkFree(endpoint);
    this.#put(endpoint, 'emulated', null, this.#target.spaceOf(endpoint));
    const device = new EmulatedDevice(endpoint, this.#target, this.#memory, this.#observation);
    this.#emulated.set(endpoint, device);
    return device;
  }

  /** As `Machine.passThrough`. */
  passThrough(endpoint: number, devicePath: string): HostDevice {
    this.#checkFree(endpoint);
    requireString('Machine', 'devicePath', devicePath);
    if (this.#hardware === null) throw new TypeError('Machine: passThrough needs a host');
    const { host, binder } = this.#hardware;
    const device = host.openDevice(devicePath);
    // What was refused was so for another device.
    this.#target.retry?.();
    const result = binder.add(endpoint, device, this.#target.spaceOf(endpoint));
    if (result < 0) {
      device.close();
      throw binder.error ?? new HostError('attach', -result);
    }
    this.#devices.set(endpoint, device);
    this.#put(endpoint, 'pass-through', device.name, this.#target.spaceOf(endpoint));
    binder.directory(endpoint, this.#target.directoryOf?.(endpoint) ?? null);
    for (const pasid of this.#target.pasidsOf?.(endpoint) ?? []) this.attachProcess(endpoint, pasid, this.#target.spaceOf(endpoint, pasid));
    return device;
  }

  /** As `Machine.remove`. */
  remove(endpoint: number): void {
    if (this.#store.endpoint(endpoint) === undefined) throw new RangeError(`Machine: no endpoint ${shown(endpoint)}`);
    this.#endEmulated(endpoint);
    const device = this.#devices.get(endpoint);
    if (device !== undefined) {
      const { binder } = this.#hardware!;
      const result = binder.remove(endpoint);
      if (result < 0) throw binder.error ?? new HostError('detach', -result);
      device.close();
      this.#devices.delete(endpoint);
    }
    this.#set(endpoint, null);
  }

  /** The guest has requests of an endpoint that carry this PASID reach another space. Returns 0, or the host's negative errno. */
  attachProcess(endpoint: number, pasid: number, space: AddressSpace | null): number {
    if (!this.#devices.has(endpoint)) return 0;
    const { binder } = this.#hardware!;
    const result = binder.attach(endpoint, space, pasid);
    this.#putProcess(endpoint, pasid, space?.name ?? null);
    return result;
  }

  /** The guest has an endpoint reach another space. Returns 0, or the host's negative errno. */
  attach(endpoint: number, space: AddressSpace | null): number {
    const known = this.#store.endpoint(endpoint);
    if (known === undefined) return 0;
    const result = this.#hardware?.binder.attach(endpoint, space) ?? 0;
    if (result === 0) this.#put(endpoint, known.kind, known.device, space);
    else if (space?.owner === 'guest' || this.#target.stageOf !== undefined) this.#put(endpoint, known.kind, known.device, null);
    return result;
  }

  /** The target has nothing that the endpoint could reach. */
  block(endpoint: number): void {
    const known = this.#store.endpoint(endpoint);
    if (known === undefined) return;
    this.#hardware?.binder.block(endpoint);
    this.#put(endpoint, known.kind, known.device, null);
  }

  /** The path of an endpoint, or of one PASID of it, became another one without its guest having asked for it. */
  moved(endpoint: number, pasid: number): void {
    if (pasid !== NO_PASID) {
      const process = this.#store.process(endpoint, pasid);
      if (process !== undefined) this.#putProcess(endpoint, pasid, process.space);
      return;
    }
    const known = this.#store.endpoint(endpoint);
    if (known === undefined || known.kind === 'emulated') return;
    const now = this.#pathOf(endpoint, known.kind);
    if (!isSame(known, now)) this.#set(endpoint, { ...known, ...now });
  }

  /** Takes every one out; the binder has let go of host devices before. */
  close(): void {
    for (const device of this.#devices.values()) device.close();
    this.#devices.clear();
    for (const device of this.#emulated.values()) device.end();
    this.#emulated.clear();
    const endpoints = Object.entries(this.state.endpoints);
    this.#store.clear();
    for (const [endpoint, { path }] of endpoints) this.#observation.pathChange(Number(endpoint), path, null);
  }

  #endEmulated(endpoint: number): void {
    const device = this.#emulated.get(endpoint);
    if (device === undefined) return;
    device.end();
    this.#past.accesses += device.accesses;
    this.#past.faults += device.faults;
    this.#emulated.delete(endpoint);
  }

  #checkFree(endpoint: number): void {
    if (!Number.isInteger(endpoint) || endpoint < 0 || endpoint > 0xffff_ffff)
      throw new RangeError(`Machine: endpoint ${String(endpoint)} is no 32-bit number`);
    if (this.#store.endpoint(endpoint) !== undefined) throw new RangeError(`Machine: endpoint ${shown(endpoint)} is taken`);
    if (this.#target.knows?.(endpoint) === false) throw new RangeError(`Machine: ${this.#target.name} has no endpoint ${shown(endpoint)}`);
  }

  #pathOf(endpoint: number, kind: EndpointState['kind']): Pick<EndpointState, 'path' | 'refused'> {
    if (kind === 'emulated') return { path: 'emulated', refused: [] };
    const choice = this.#hardware!.binder.choiceOf(endpoint);
    return { path: choice?.path ?? 'blocked', refused: choice?.refused.map((entry) => ({ ...entry })) ?? [] };
  }

  #putProcess(endpoint: number, pasid: number, space: string | null): void {
    const before = this.#store.process(endpoint, pasid);
    const choice = this.#hardware!.binder.choiceOf(endpoint, pasid);
    const now = choice && { space, path: choice.path, refused: choice.refused.map((entry) => ({ ...entry })) };
    if (now === null || before === undefined || now.space !== before.space || !isSame(before, now))
      this.#store.putProcess(endpoint, pasid, now);
  }

  #put(endpoint: number, kind: EndpointState['kind'], device: string | null, space: AddressSpace | null): void {
    const { path, refused } = this.#pathOf(endpoint, kind);
    this.#set(endpoint, { kind, device, space: space?.name ?? null, path, refused });
  }

  #set(endpoint: number, state: EndpointState | null): void {
    const before = this.#store.endpoint(endpoint)?.path ?? null;
    this.#store.put(endpoint, state);
    this.#observation.pathChange(endpoint, before, state?.path ?? null);
  }
}

function isSame(before: Pick<EndpointState, 'path' | 'refused'>, now: Pick<EndpointState, 'path' | 'refused'>): boolean {
  return (
    now.path === before.path &&
    now.refused.length === before.refused.length &&
    now.refused.every(({ reason }, i) => reason === before.refused[i]?.reason)
  );
}

function shown(endpoint: unknown): string {
  return typeof endpoint === 'number' ? `0x${endpoint.toString(16)}` : String(endpoint);
}
