import { enablePatches, freeze, type Patch, produceWithPatches } from 'immer';

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

type Mutable<T> = { -readonly [K in keyof T]: T[K] extends object | null ? Mutable<T[K]> : T[K] };

/** The state of a machine, changed only through `update`, so that whoever listens can record all of it. */
export class StateStore {
  #state: MachineState;
  readonly #listeners = new Set<StateListener>();

  constructor(initial: MachineState) {
    this.#state = freeze(initial, true);
  }

  get state(): MachineState {
    return this.#state;
  }

  update(change: (draft: Mutable<MachineState>) => void): void {
    const [next, patches, inverse] = produceWithPatches(this.#state, (draft) => {
      change(draft as Mutable<MachineState>);
    });
    this.#state = next;
    if (patches.length > 0) for (const listener of this.#listeners) listener(patches, inverse);
  }

  listen(listener: StateListener): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }
}
