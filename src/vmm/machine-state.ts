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

/** The same of one PASID of a passed-through endpoint. */
export type ProcessState = Pick<EndpointState, 'space' | 'path' | 'refused'>;

/** The control plane of a machine as plain, frozen data. Endpoints by number, as decimal strings. */
export interface MachineState {
  readonly target: string;
  /** Host interface; null when nothing is passed through. */
  readonly host: string | null;
  readonly endpoints: Readonly<Record<string, EndpointState>>;
  /** PASIDs that reach something by their guest's wish, by endpoint and PASID: `8/1`. Left out: there are none. */
  readonly processes?: Readonly<Record<string, ProcessState>>;
}

/** Receives each change as immer patches: what happened, and what takes it back. */
export type StateListener = (patches: readonly Patch[], inverse: readonly Patch[]) => void;

/**
 * The state of a machine, so kept that a change costs what it changes, however many endpoints there are: it is written as patches at once, and
 * the whole is put together when somebody looks at it.
 */
export class StateStore {
  readonly #rest: Pick<MachineState, 'target' | 'host'>;
  readonly #processes = new Map<string, ProcessState>();
  readonly #endpoints = new Map<number, EndpointState>();
  readonly #listeners = new Set<StateListener>();
  #state: MachineState | null = null;

  constructor(rest: Pick<MachineState, 'target' | 'host'>) {
    this.#rest = rest;
  }

  get state(): MachineState {
    this.#state ??= freeze(this.#compose(), true);
    return this.#state;
  }

  #compose(): MachineState {
    const state = { ...this.#rest, endpoints: Object.fromEntries(this.#endpoints) };
    return this.#processes.size === 0 ? state : { ...state, processes: Object.fromEntries(this.#processes) };
  }

  process(endpoint: number, pasid: number): ProcessState | undefined {
    return this.#processes.get(`${endpoint}/${pasid}`);
  }

  /** Sets the state of a PASID; null takes it out. The first, and the last, come and go with all of them. */
  putProcess(endpoint: number, pasid: number, state: ProcessState | null): void {
    const key = `${endpoint}/${pasid}`;
    const before = this.#processes.get(key);
    if (state === null && before === undefined) return;
    const count = this.#processes.size;
    if (state === null) this.#processes.delete(key);
    else this.#processes.set(key, freeze(state, true));
    const whole = ['processes'];
    if (count === 0) this.#tell([{ op: 'add', path: whole, value: { [key]: state } }], [{ op: 'remove', path: whole }]);
    else if (this.#processes.size === 0)
      this.#tell([{ op: 'remove', path: whole }], [{ op: 'add', path: whole, value: { [key]: before } }]);
    else this.#tell([patch('processes', key, before, state)], [patch('processes', key, state ?? undefined, before ?? null)]);
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
    this.#tell([patch('endpoints', endpoint, before, state)], [patch('endpoints', endpoint, state ?? undefined, before ?? null)]);
  }

  clear(): void {
    if (this.#endpoints.size === 0) return;
    const before = [...this.#endpoints];
    this.#endpoints.clear();
    this.#tell(
      before.map(([endpoint, state]) => patch('endpoints', endpoint, state, null)),
      before.map(([endpoint, state]) => patch('endpoints', endpoint, undefined, state)),
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

/** What makes `before` of an endpoint, or a PASID, `after`. */
function patch<State>(kind: 'endpoints' | 'processes', key: number | string, before: State | undefined, after: State | null): Patch {
  const path = [kind, String(key)];
  return after === null ? { op: 'remove', path } : { op: before === undefined ? 'add' : 'replace', path, value: after };
}
