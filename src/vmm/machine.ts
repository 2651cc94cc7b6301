import { Binder } from '../accel/binder.ts';
import type { PathCounters } from '../accel/path.ts';
import { HostError } from '../host/errno.ts';
import type { Host, HostDevice } from '../host/host.ts';
import type { GuestMemory } from '../memory/guest-memory.ts';
import type { AddressSpace, Target, TargetObserver } from '../target/target.ts';
import { EmulatedDevice } from './dma.ts';
import { type EndpointState, type MachineState, type StateListener, StateStore } from './machine-state.ts';

export interface MachineParts {
  readonly memory: GuestMemory;
  readonly target: Target;
  /** Left out: no device can be passed through. The machine does not close it. */
  readonly host?: Host;
  /** `auto` (default), or the only path that may serve. */
  readonly path?: string;
}

/**
 * The prototype machine: one target IOMMU, guest memory, and endpoints behind it, each emulated or passed through. It tells
 * the paths what the target tells it, and keeps the control plane as immer state.
 */
export class Machine {
  readonly memory: GuestMemory;
  readonly target: Target;
  readonly #host: Host | null;
  readonly #binder: Binder | null;
  readonly #store: StateStore;
  readonly #devices = new Map<number, HostDevice>();
  readonly #unobserve: () => void;

  constructor({ memory, target, host, path = 'auto' }: MachineParts) {
    this.memory = memory;
    this.target = target;
    this.#host = host ?? null;
    this.#binder = host ? new Binder(host, memory, path) : null;
    this.#store = new StateStore({ target: target.name, host: host?.kind ?? null, endpoints: {} });
    this.#unobserve = target.observe(this.#observer());
  }

  /** The control plane now: frozen, plain data. */
  get state(): MachineState {
    return this.#store.state;
  }

  /** Whatever changes the control plane, as immer patches; the disposer ends it. */
  onChange(listener: StateListener): () => void {
    return this.#store.listen(listener);
  }

  /** The host failure behind the last guest operation that was refused, if there was one. */
  get hostError(): HostError | null {
    return this.#binder?.error ?? null;
  }

  /** What each path did so far. */
  counters(): { readonly space: string; readonly path: string; readonly counters: PathCounters }[] {
    return this.#binder?.counters() ?? [];
  }

  /** Adds an emulated device. @throws RangeError when the endpoint is taken or no 32-bit number. */
  emulate(endpoint: number): EmulatedDevice {
    this.#checkFree(endpoint);
    this.#put(endpoint, 'emulated', null, this.target.spaceOf(endpoint));
    return new EmulatedDevice(endpoint, this.target, this.memory);
  }

  /**
   * Passes a host device through to the guest.
   * @throws RangeError when the endpoint is taken or no 32-bit number; TypeError when the machine has no host; HostError when the host refuses.
   */
  passThrough(endpoint: number, devicePath: string): HostDevice {
    this.#checkFree(endpoint);
    if (this.#host === null || this.#binder === null) throw new TypeError('Machine: passThrough needs a host');
    const device = this.#host.openDevice(devicePath);
    const result = this.#binder.add(endpoint, device, this.target.spaceOf(endpoint));
    if (result < 0) {
      device.close();
      throw this.#binder.error ?? new HostError('attach', -result);
    }
    this.#devices.set(endpoint, device);
    this.#put(endpoint, 'pass-through', device.name, this.target.spaceOf(endpoint));
    return device;
  }

  /** Takes a device out; a passed-through one goes back to the host. @throws RangeError when there is none; HostError when it cannot be detached. */
  remove(endpoint: number): void {
    if (this.state.endpoints[endpoint] === undefined) throw new RangeError(`Machine: no endpoint 0x${endpoint.toString(16)}`);
    const device = this.#devices.get(endpoint);
    if (device !== undefined) {
      const result = this.#binder!.remove(endpoint);
      if (result < 0) throw this.#binder!.error ?? new HostError('detach', -result);
      device.close();
      this.#devices.delete(endpoint);
    }
    this.#store.update((state) => {
      delete state.endpoints[endpoint];
    });
  }

  /** Takes everything off the target and the host. The machine must not be used any more. */
  close(): void {
    for (const endpoint of Object.keys(this.state.endpoints)) this.remove(Number(endpoint));
    this.#unobserve();
  }

  #observer(): TargetObserver {
    const binder = this.#binder;
    return {
      attach: (endpoint, space) => this.#attach(endpoint, space),
      changed: binder === null ? () => {} : (space, first, last) => binder.changed(space, first, last),
      flush: binder === null ? () => 0 : () => binder.flush(),
    };
  }

  #attach(endpoint: number, space: AddressSpace | null): number {
    const known = this.state.endpoints[endpoint];
    if (known === undefined) return 0;
    const result = this.#binder?.attach(endpoint, space) ?? 0;
    if (result === 0) this.#put(endpoint, known.kind, known.device, space);
    else if (space?.owner === 'guest') this.#put(endpoint, known.kind, known.device, null);
    return result;
  }

  #checkFree(endpoint: number): void {
    if (!Number.isInteger(endpoint) || endpoint < 0 || endpoint > 0xffff_ffff)
      throw new RangeError(`Machine: endpoint ${String(endpoint)} is no 32-bit number`);
    if (this.state.endpoints[endpoint] !== undefined) throw new RangeError(`Machine: endpoint 0x${endpoint.toString(16)} is taken`);
  }

  #put(endpoint: number, kind: EndpointState['kind'], device: string | null, space: AddressSpace | null): void {
    const choice = kind === 'pass-through' ? this.#binder!.choiceOf(endpoint) : null;
    const path = kind === 'emulated' ? 'emulated' : (choice?.path ?? 'blocked');
    const refused = choice?.refused.map((entry) => ({ ...entry })) ?? [];
    this.#store.update((state) => {
      state.endpoints[endpoint] = { kind, device, space: space?.name ?? null, path, refused };
    });
  }
}
