/// <reference lib="esnext.disposable" preserve="true" />
import { Binder } from '../accel/binder.ts';
import { checkWish } from '../accel/choose.ts';
import type { PathCounters } from '../accel/path.ts';
import type { TableWatch } from '../accel/table-watch.ts';
import { HostError } from '../host/errno.ts';
import type { Host, HostCalls, HostDevice } from '../host/host.ts';
import { requireFunction, requireObject, requireString } from '../memory/arguments.ts';
import { GuestMemory } from '../memory/guest-memory.ts';
import type { Target, TargetObserver } from '../target/target.ts';
import { DirtyLog, type DirtyPages } from './dirty-log.ts';
import type { EmulatedDevice } from './dma.ts';
import { Endpoints } from './endpoints.ts';
import type { EndpointState, MachineState, StateListener } from './machine-state.ts';
import { type MachineHooks, Observation } from './observation.ts';

/** What a machine did so far. */
export interface MachineTotals extends PathCounters {
  /** Pages that emulated devices had translated, and those that were refused. */
  readonly accesses: number;
  readonly faults: number;
  /** Accesses, of whomever, that the target's IOTLB answered, and those that it did not have, so that tables were walked. null: it has no IOTLB. */
  readonly iotlbHits: number | null;
  readonly iotlbMisses: number | null;
  /** null: there is no host. */
  readonly hostCalls: HostCalls | null;
}

/** What `save` gives. */
export interface SavedMachine {
  readonly target: string;
  readonly endpoints: readonly { readonly endpoint: number; readonly kind: EndpointState['kind'] }[];
  /** Of the target. */
  readonly state: unknown;
}

export interface MachineParts {
  readonly memory: GuestMemory;
  readonly target: Target;
  /** Left out: no device can be passed through. The machine does not close it. */
  readonly host?: Host;
  /** `auto` (default), or the only path that may serve. */
  readonly path?: string;
  /**
   * Says when the guest stores to tables that a passed-through device's translations were read from. Left out: guests that do not announce new
   * mappings (RISC-V, SMMUv3, first stages of VT-d) are served by nested paths, or on demand.
   */
  readonly watch?: TableWatch;
  /**
   * Where no one announces nor watches, and devices can wait for pages (PCIe PRI; iommufd), those are filled as they are asked for, by `poll`: so many
   * pages of a space at one time at most. Default: 2^20 (4 GiB).
   */
  readonly residentPages?: number;
  /** Runs the next slice of what was too much for one guest operation, between two of them. Default: setImmediate. */
  readonly schedule?: (slice: () => void) => void;
}

/**
 * The prototype machine: one target IOMMU, guest memory, and endpoints behind it, each emulated or passed through. It tells
 * the paths what the target tells it, and keeps the control plane as immer state.
 *
 * @example
 * const memory = GuestMemory.ofBytes(1 << 20);
 * const target = new VirtioIommu({ memory, bootBypass: false });
 * target.addEndpoint(8);
 * const machine = new Machine({ memory, target });
 * const device = machine.emulate(8);
 * target.negotiate();
 * target.attach(1, 8);
 * target.map(1, 0x1000n, 0x1fffn, 0x5000n, 3);
 * device.write(0x1010n, Uint8Array.of(7)); // 0: done, at guest-physical 0x5010
 * machine.close();
 */
export class Machine {
  readonly memory: GuestMemory;
  readonly target: Target;
  readonly #host: Host | null;
  readonly #binder: Binder | null;
  readonly #endpoints: Endpoints;
  readonly #observation: Observation;
  readonly #dirty: DirtyLog;
  readonly #unobserve: () => void;
  readonly #unobserveMemory: () => void;
  #closed = false;

  /** @throws TypeError or RangeError that names the part which is missing or of the wrong kind. */
  constructor(parts: MachineParts) {
    requireObject('Machine', 'parts', parts);
    const { memory, target, host, path, watch, residentPages, schedule } = parts;
    if (!(memory instanceof GuestMemory)) throw new TypeError('Machine: memory is no GuestMemory');
    requireObject('Machine', 'target', target, 'Target', ['observe', 'spaceOf', 'translate']);
    if (target.memory !== undefined && target.memory !== memory)
      throw new TypeError(`Machine: memory is not that of target ${target.name}`);
    if (host !== undefined) requireObject('Machine', 'host', host, 'Host', ['openDevice', 'createSpace']);
    requireFunction('Machine', 'schedule', schedule);
    if (watch !== undefined) requireObject('Machine', 'watch', watch, 'TableWatch', ['watch', 'unwatch', 'observe']);
    if (path !== undefined) checkWish(path);
    this.memory = memory;
    this.target = target;
    this.#host = host ?? null;
    this.#binder = host
      ? new Binder(host, memory, {
          ...(path !== undefined && { path }),
          ...(schedule !== undefined && { schedule }),
          ...(residentPages !== undefined && { residentPages }),
          moved: (endpoint, pasid) => this.#endpoints.moved(endpoint, pasid),
          watch,
          target,
        })
      : null;
    const binder = this.#binder;
    this.#observation = new Observation(this.#host);
    this.#dirty = new DirtyLog(memory);
    this.#endpoints = new Endpoints(target, memory, host && binder ? { host, binder } : null, this.#observation);
    this.#unobserve = target.observe(this.#observation.around(this.#observer()));
    this.#unobserveMemory = memory.observe(() => {
      binder?.memoryChanged();
      this.#observation.memoryChange(memory.regions);
    });
  }

  /** The control plane now: frozen, plain data. */
  get state(): MachineState {
    return this.#endpoints.state;
  }

  /** Whatever changes the control plane, as immer patches; the disposer ends it. */
  onChange(listener: StateListener): () => void {
    this.#checkOpen();
    if (typeof listener !== 'function') throw new TypeError('Machine: listener is no function');
    return this.#endpoints.listen(listener);
  }

  /**
   * Tells what happens: guest operations, refused accesses of emulated devices, host calls, other paths. The disposer ends it.
   *
   * @example
   * const memory = GuestMemory.ofBytes(1 << 20);
   * const target = new VirtioIommu({ memory, bootBypass: false });
   * target.addEndpoint(8);
   * const machine = new Machine({ memory, target });
   * const faults = [];
   * const dispose = machine.observe({ fault: ({ code }) => faults.push(faultName(code)) });
   * machine.emulate(8).read(0x1000n, new Uint8Array(4));
   * dispose();
   * faults; // ['virtio-iommu DOMAIN']
   *
   * @throws TypeError for a hook that there is not, or that is no function
   */
  observe(hooks: MachineHooks): () => void {
    this.#checkOpen();
    return this.#observation.add(hooks);
  }

  /** What the machine did so far, as plain data: sums of what its paths count now, of emulated devices, of the host's driver. */
  totals(): MachineTotals {
    this.#checkOpen();
    const totals = { ...this.#endpoints.totals(), flushes: 0, splits: 0, splitsWithoutGap: 0, merges: 0 };
    for (const { counters } of this.#binder?.counters() ?? [])
      for (const name of ['flushes', 'splits', 'splitsWithoutGap', 'merges'] as const) totals[name] += counters[name];
    const { iotlbHits = null, iotlbMisses = null } = this.target;
    return { ...totals, iotlbHits, iotlbMisses, hostCalls: this.#host === null ? null : { ...this.#host.calls } };
  }

  /** The guest's side of it, as plain data that `structuredClone` and JSON both keep: the target's state, and which endpoints there are. */
  save(): SavedMachine {
    this.#checkOpen();
    const endpoints = Object.entries(this.state.endpoints).map(([endpoint, { kind }]) => ({ endpoint: Number(endpoint), kind }));
    return { target: this.target.name, endpoints, state: this.target.save() };
  }

  /**
   * Takes the state up, in a machine that was made alike: same target and options, same endpoints, each emulated or passed through as it was.
   * Guest RAM is the embedder's to bring. Paths follow as in any guest operation.
   * @throws TypeError for what `save` of such a machine did not make, HostError when a host has to follow and does not; then nothing has changed
   */
  load(saved: SavedMachine): void {
    this.#checkOpen();
    requireObject('Machine', 'saved', saved);
    const { target, endpoints, state } = saved;
    if (target !== this.target.name)
      throw new TypeError(`Machine: saved is of target ${String(target)}, and this one is ${this.target.name}`);
    if (!Array.isArray(endpoints)) throw new TypeError('Machine: saved has no endpoints');
    const here = this.state.endpoints;
    const there = new Map(endpoints.map((one) => [String(one?.endpoint), one?.kind]));
    const names = Object.keys(here);
    if (endpoints.length !== names.length || names.some((name) => there.get(name) !== here[name].kind))
      throw new TypeError('Machine: saved is of a machine with other endpoints');
    const before = this.hostError;
    try {
      this.target.load(state);
    } catch (error) {
      // A target knows that it was not followed, and not why; a failure of before is not the reason.
      throw this.hostError === before ? error : (this.hostError ?? error);
    }
  }

  /** The host failure behind the last guest operation that was refused, if there was one. */
  get hostError(): HostError | null {
    return this.#binder?.error ?? null;
  }

  /**
   * From now on `collectDirty` knows what devices write to guest RAM, as for a migration; the disposer ends it. What the guest's processors write is
   * the embedder's to log.
   *
   * @example
   * const memory = GuestMemory.ofBytes(1 << 20);
   * const target = new VirtioIommu({ memory });
   * target.addEndpoint(8);
   * const machine = new Machine({ memory, target });
   * const device = machine.emulate(8);
   * const end = machine.logDirty();
   * device.write(0x5010n, Uint8Array.of(7));
   * const { pages, round } = machine.collectDirty(0);
   * pages; // [{ first: 5, last: 5 }]
   * machine.collectDirty(round).pages; // []
   * end();
   *
   * @throws TypeError while that is done already
   */
  logDirty(): () => void {
    this.#checkOpen();
    this.#binder?.trackDirty(true);
    const end = this.#dirty.start();
    return () => {
      end();
      if (!this.#closed && !this.memory.isLogged) this.#binder?.trackDirty(false);
    };
  }

  /**
   * Guest pages that devices wrote after an earlier call, whose `round` is given (0: since `logDirty`), unmapped meanwhile or not: what emulated
   * devices and the IOMMU itself wrote, and, of passed-through ones, what the host's hardware remembers. Where it does not (`inexact` says), all that
   * they could write.
   * @throws TypeError unless `logDirty` was called; RangeError for a number of no round
   */
  collectDirty(since: number): DirtyPages {
    this.#checkOpen();
    return this.#dirty.collect(since, () => {
      this.#binder?.noteWrites();
      return this.#binder?.inexactWrites ?? [];
    });
  }

  /** What each path did so far. */
  counters(): { readonly space: string; readonly path: string; readonly counters: PathCounters }[] {
    this.#checkOpen();
    return this.#binder?.counters() ?? [];
  }

  /**
   * Takes up what hardware has said: faults and page requests of devices become records of the target's, or are filled on demand. To be called
   * when one of `eventDescriptors` is readable, or now and then.
   * @throws HostError
   */
  poll(): void {
    this.#checkOpen();
    this.#binder?.poll();
  }

  /** File descriptors of the host that are readable when `poll` has something to do; others when the guest's tables change. */
  get eventDescriptors(): readonly number[] {
    return this.#binder?.eventDescriptors ?? [];
  }

  /** Adds an emulated device. @throws RangeError when the endpoint is taken, unknown to the target or no 32-bit number. */
  emulate(endpoint: number): EmulatedDevice {
    this.#checkOpen();
    return this.#endpoints.emulate(endpoint);
  }

  /**
   * Passes a host device through to the guest. Devices of one IOMMU group reach a space together, or none does.
   * @throws RangeError when the endpoint is taken, unknown to the target or no 32-bit number; TypeError when the machine has no host; HostError
   * when the host refuses.
   */
  passThrough(endpoint: number, devicePath: string): HostDevice {
    this.#checkOpen();
    return this.#endpoints.passThrough(endpoint, devicePath);
  }

  /**
   * Moves every passed-through device to another path while the guest runs: `auto`, the fastest, or the one that is named. No DMA fails that is
   * valid, and none passes that is not, on hosts that can replace what a device is attached to (iommufd).
   * @throws RangeError for a name of no path; HostError when it cannot serve some space, which stays where it was.
   */
  changePath(path: string): void {
    this.#checkOpen();
    requireString('Machine', 'path', path);
    const result = this.#binder?.changePath(path) ?? 0;
    const error = result < 0 ? (this.#binder?.error ?? new HostError('attach', -result)) : null;
    // What no path took by the last wish may find one by this.
    this.target.retry?.();
    if (error !== null) throw error;
  }

  /** Takes a device out; a passed-through one goes back to the host. @throws RangeError when there is none; HostError when it cannot be detached. */
  remove(endpoint: number): void {
    this.#checkOpen();
    this.#endpoints.remove(endpoint);
  }

  /**
   * Takes everything off the target and the host, whatever fails; the machine cannot be used any more. Idempotent, and the host may be closed
   * before.
   * @throws HostError for a device that could only be closed, not detached; AggregateError for several. Everything is closed all the same.
   */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#unobserve();
    this.#unobserveMemory();
    this.#dirty.end();
    const errors = this.#binder?.close() ?? [];
    this.#endpoints.close();
    this.#observation.clear();
    if (errors.length === 1) throw errors[0];
    if (errors.length > 1) throw new AggregateError(errors, `Machine: ${errors.map(({ message }) => message).join('; ')}`);
  }

  [Symbol.dispose](): void {
    this.close();
  }

  #observer(): TargetObserver {
    const binder = this.#binder;
    return {
      attach: (endpoint, space, pasid) =>
        pasid === undefined ? this.#endpoints.attach(endpoint, space) : this.#endpoints.attachProcess(endpoint, pasid, space),
      block: (endpoint) => this.#endpoints.block(endpoint),
      changed: binder === null ? () => {} : (space, first, last) => binder.changed(space, first, last),
      flush: binder === null ? () => 0 : () => binder.flush(),
      ...(binder !== null && {
        invalidated: (words) => binder.invalidated(words),
        directory: (endpoint, directory) => binder.directory(endpoint, directory),
        answered: (endpoint, pasid, group, answer) => binder.answered(endpoint, pasid, group, answer),
      }),
    };
  }

  #checkOpen(): void {
    if (this.#closed) throw new TypeError('Machine: it is closed');
  }
}
