import { enablePatches, freeze, type Patch } from 'immer';

enablePatches();

/** What the control plane knows of one endpoint. */
export interface EndpointState {
  readonly kind: 'emulated' | 'pass-through';
  /** The host's name of the device; null for an emulated one. */
  readonly device: string | null;
  /** The target's name of the address space that its requests reach; null: they are blocked. */
  readonly space: string | null;
  /** The path that serves it, `emulated`, or `blocked`. */
  readonly path: string;
  /** Paths that were faster and why they could not serve. */
  readonly refused: readonly { readonly path: string; readonly reason: string }[];
}

/** The control plane of a machine as plain, frozen data. Endpoints by number, as decimal strings. */
export interface MachineState {
  readonly target: string;
  /** Host interface; null when nothing is passed through. */
  readonly host: string | null;
  readonly endpoints: Readonly<Record<string, EndpointState>>;
}

/** Receives each change as immer patches: what happened, and what takes it back. */
export type StateListener = (patches: readonly Patch[], inverse: readonly Patch[]) => void;

/**
 * The state of a machine, so kept that a change costs what it changes, however many endpoints there are: it is written as patches at once, and
 * the whole is put together when somebody looks at it.
 */
export class StateStore {
  readonly #rest: Omit<MachineState, 'endpoints'>;
  readonly #endpoints = new Map<number, EndpointState>();
  readonly #listeners = new Set<StateListener>();
  #state: MachineState | null = null;

  constructor(rest: Omit<MachineState, 'endpoints'>) {
    this.#rest = rest;
  }

  get state(): MachineState {
    this.#state ??= freeze({ ...this.#rest, endpoints: Object.fromEntries(this.#endpoints) }, true);
    return this.#state;
  }

  endpoint(endpoint: number): EndpointState | undefined {
    return this.#endpoints.get(endpoint);
  }

  /** Sets an endpoint's state; null takes the endpoint out. */
  put(endpoint: number, state: EndpointState | null): void {
    const before = this.#endpoints.get(endpoint);
    if (state === null && before === undefined) return;
    if (state === null) this.#endpoints.delete(endpoint);
    else this.#endpoints.set(endpoint, freeze(state, true));
    this.#tell([patch(endpoint, before, state)], [patch(endpoint, state ?? undefined, before ?? null)]);
  }

  clear(): void {
    if (this.#endpoints.size === 0) return;
    const before = [...this.#endpoints];
    this.#endpoints.clear();
    this.#tell(
      before.map(([endpoint, state]) => patch(endpoint, state, null)),
      before.map(([endpoint, state]) => patch(endpoint, undefined, state)),
    );
  }

  #tell(patches: readonly Patch[], inverse: readonly Patch[]): void {
    this.#state = null;
    for (const listener of this.#listeners) listener(patches, inverse);
  }

  listen(listener: StateListener): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }
}

/** What makes `before` of an endpoint `after`. */
function patch(endpoint: number, before: EndpointState | undefined, after: EndpointState | null): Patch {
  const path = ['endpoints', String(endpoint)];
  return after === null ? { op: 'remove', path } : { op: before === undefined ? 'add' : 'replace', path, value: after };
}
