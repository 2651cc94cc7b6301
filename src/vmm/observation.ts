import type { Host, HostCalls } from '../host/host.ts';
import { requireFunction, requireObject } from '../memory/arguments.ts';
import type { GuestRegion } from '../memory/guest-region.ts';
import type { AddressSpace, PfnRange, TargetObserver } from '../target/target.ts';

/** What one guest operation came to, as the target told it. Operations that change nothing are not told. */
export type GuestOperation =
  /** From now on the endpoint's requests (`pasid`: those that carry it; null: those that carry none) reach `space`; null: nothing. */
  | {
      readonly kind: 'attach';
      readonly endpoint: number;
      readonly pasid: number | null;
      readonly space: AddressSpace | null;
      readonly result: number;
    }
  /** These pages may mean something else, and the hardware agrees. `result`: 0, or the negative errno with which it was refused. */
  | { readonly kind: 'change'; readonly changed: readonly ({ readonly space: AddressSpace } & PfnRange)[]; readonly result: number };

/** An access of an emulated device that was refused: `code` is what `faultName` explains. */
export interface DeviceFault {
  readonly endpoint: number;
  readonly pasid: number;
  readonly iova: bigint;
  /** READ or WRITE. */
  readonly access: number;
  readonly code: number;
}

/** An access of an emulated device that was done, or the part of it that one translation answers for. */
export interface DeviceAccess {
  readonly endpoint: number;
  readonly pasid: number;
  readonly iova: bigint;
  /** READ or WRITE. */
  readonly access: number;
  readonly bytes: number;
  /** Where in guest memory it went. */
  readonly gpa: bigint;
}

/** An endpoint is served otherwise than before. null: it was not there, or is there no more. */
export interface PathChange {
  readonly endpoint: number;
  readonly from: string | null;
  readonly to: string | null;
}

/** What a machine tells whoever looks on. Each is called within the operation; what it throws goes to whoever caused that. */
export interface MachineHooks {
  readonly guestOperation?: (operation: GuestOperation) => void;
  readonly access?: (access: DeviceAccess) => void;
  readonly fault?: (fault: DeviceFault) => void;
  /** Host calls by kind, behind the guest operation that made them; those of passing devices through come with the next. Not told where there are none. */
  readonly hostCall?: (calls: HostCalls) => void;
  readonly pathChange?: (change: PathChange) => void;
  /** Regions of guest memory came or went, and the hardware has followed. */
  readonly memoryChange?: (regions: readonly GuestRegion[]) => void;
}

const HOOKS = ['guestOperation', 'access', 'fault', 'hostCall', 'pathChange', 'memoryChange'] as const;

/** Whoever looks on at a machine, and what they are told. Nobody: an empty set is looked at, and nothing else is done. */
export class Observation {
  readonly #hooks = new Set<MachineHooks>();
  readonly #host: Host | null;
  #changed: ({ readonly space: AddressSpace } & PfnRange)[] = [];
  #calls: HostCalls | null = null;

  constructor(host: Host | null) {
    this.#host = host;
  }

  get active(): boolean {
    return this.#hooks.size > 0;
  }

  /** @throws TypeError for no object of hooks, or a hook that there is not. */
  add(hooks: MachineHooks): () => void {
    requireObject('Machine', 'hooks', hooks);
    for (const name of Object.keys(hooks))
      if (!HOOKS.some((known) => known === name)) throw new TypeError(`Machine: there is no hook ${name}`);
    for (const name of HOOKS) requireFunction('Machine', name, hooks[name]);
    // The same hooks twice are two registrations.
    const own = { ...hooks };
    this.#hooks.add(own);
    this.#calls = this.#host === null ? null : { ...this.#host.calls };
    return () => {
      this.#hooks.delete(own);
      if (!this.active) this.#changed = [];
    };
  }

  clear(): void {
    this.#hooks.clear();
    this.#changed = [];
  }

  /** The observer of the target, looked at. */
  around(observer: TargetObserver): TargetObserver {
    return {
      ...observer,
      attach: (endpoint, space, pasid) => {
        const result = observer.attach(endpoint, space, pasid);
        if (this.active) this.#tell({ kind: 'attach', endpoint, pasid: pasid ?? null, space, result });
        return result;
      },
      block: (endpoint) => {
        observer.block?.(endpoint);
        if (this.active) this.#tell({ kind: 'attach', endpoint, pasid: null, space: null, result: 0 });
      },
      changed: (space, first, last) => {
        if (this.active) this.#changed.push({ space, first, last });
        observer.changed(space, first, last);
      },
      flush: () => {
        const result = observer.flush();
        if (this.active && this.#changed.length > 0) {
          const changed = this.#changed;
          this.#changed = [];
          this.#tell({ kind: 'change', changed, result });
        }
        return result;
      },
    };
  }

  access(access: DeviceAccess): void {
    for (const { access: told } of this.#hooks) told?.(access);
  }

  fault(fault: DeviceFault): void {
    for (const { fault: told } of this.#hooks) told?.(fault);
  }

  pathChange(endpoint: number, from: string | null, to: string | null): void {
    if (from !== to) for (const { pathChange } of this.#hooks) pathChange?.({ endpoint, from, to });
  }

  memoryChange(regions: readonly GuestRegion[]): void {
    for (const { memoryChange } of this.#hooks) memoryChange?.(regions);
  }

  #tell(operation: GuestOperation): void {
    const calls = this.#callsSince();
    for (const hooks of this.#hooks) {
      hooks.guestOperation?.(operation);
      if (calls !== null) hooks.hostCall?.(calls);
    }
  }

  #callsSince(): HostCalls | null {
    if (this.#host === null || this.#calls === null) return null;
    const now = this.#host.calls;
    const before = this.#calls;
    this.#calls = { ...now };
    const since: HostCalls = {
      map: now.map - before.map,
      unmap: now.unmap - before.unmap,
      copy: now.copy - before.copy,
      attach: now.attach - before.attach,
      control: now.control - before.control,
    };
    return Object.values(since).some((count) => count > 0) ? since : null;
  }
}
