import { errno, HostError } from '../host/errno.ts';
import type { Host, HostDevice } from '../host/host.ts';
import type { GuestMemory } from '../memory/guest-memory.ts';
import type { AddressSpace, TargetObserver } from '../target/target.ts';
import { type Choice, checkWish, choose, type PathWish } from './choose.ts';
import type { Path, PathCounters } from './path.ts';

/** A passed-through endpoint: its host device, the space that it reaches, and the path that brings it there. */
interface Binding {
  readonly device: HostDevice;
  space: AddressSpace | null;
}

/** A space that the hardware holds for at least one device. */
interface Backing {
  readonly path: Path;
  readonly choice: Choice;
  devices: number;
}

/**
 * Binds the passed-through endpoints of one target to one host: endpoints that share an address space share one path, made
 * when the first of them arrives and closed when the last one leaves. Spaces that only emulated devices use cost nothing here.
 */
export class Binder implements TargetObserver {
  readonly #host: Host;
  readonly #memory: GuestMemory;
  readonly #wish: PathWish;
  readonly #bindings = new Map<number, Binding>();
  readonly #backings = new Map<AddressSpace, Backing>();
  #error: HostError | null = null;

  /** @throws RangeError for a wish that names no path. */
  constructor(host: Host, memory: GuestMemory, wish: PathWish = 'auto') {
    checkWish(wish);
    this.#host = host;
    this.#memory = memory;
    this.#wish = wish;
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
    this.#bindings.set(endpoint, { device, space: null });
    const result = this.attach(endpoint, space);
    if (result < 0) this.#bindings.delete(endpoint);
    return result;
  }

  /** Takes the device off the target, blocked. Returns 0 or a negative errno. */
  remove(endpoint: number): number {
    const result = this.attach(endpoint, null);
    if (result === 0) this.#bindings.delete(endpoint);
    return result;
  }

  /** The path of an endpoint and why; null when the endpoint has no device or is blocked. */
  choiceOf(endpoint: number): Choice | null {
    const space = this.#bindings.get(endpoint)?.space;
    return (space && this.#backings.get(space)?.choice) ?? null;
  }

  /** Counters of all paths that live now, with the names of their spaces. */
  counters(): { readonly space: string; readonly path: string; readonly counters: PathCounters }[] {
    return [...this.#backings].map(([space, { path }]) => ({ space: space.name, path: path.name, counters: { ...path.counters } }));
  }

  attach(endpoint: number, space: AddressSpace | null): number {
    const binding = this.#bindings.get(endpoint);
    if (binding === undefined || binding.space === space) return 0;
    const result = space === null ? this.#block(binding) : this.#move(binding, space);
    // A guest that changed its own tables has left the old space for good: better no translation than a stale one.
    if (result < 0 && space?.owner === 'guest') this.#block(binding);
    return result;
  }

  changed(space: AddressSpace, first: number, last: number): void {
    this.#backings.get(space)?.path.changed(first, last);
  }

  flush(): number {
    let result = 0;
    for (const { path } of this.#backings.values()) {
      const answer = path.flush();
      if (answer < 0 && result === 0) {
        result = answer;
        this.#error = path.error;
      }
    }
    return result;
  }

  /** Blocks every endpoint and frees what the paths hold on the host. */
  close(): void {
    for (const endpoint of [...this.#bindings.keys()]) this.remove(endpoint);
  }

  #block(binding: Binding): number {
    if (binding.space === null) return 0;
    const backing = this.#backings.get(binding.space)!;
    const result = backing.path.detach(binding.device);
    if (result < 0) {
      this.#error = backing.path.error;
      return result;
    }
    this.#left(binding, backing);
    return 0;
  }

  #move(binding: Binding, space: AddressSpace): number {
    const backing = this.#backings.get(space) ?? this.#back(space);
    if (typeof backing === 'number') return backing;
    const before = binding.space === null ? undefined : this.#backings.get(binding.space);
    const result = backing.path.attach(binding.device);
    if (result < 0) {
      this.#error = backing.path.error;
      if (before !== undefined) this.#stay(binding, before);
      if (backing.devices === 0) this.#release(space, backing);
      return result;
    }
    backing.devices++;
    if (before !== undefined) {
      before.path.moved(binding.device);
      this.#left(binding, before);
    }
    binding.space = space;
    return 0;
  }

  /** The refusing path may have had the device for a moment: it goes back, or, when the host does not let it, is blocked. */
  #stay(binding: Binding, backing: Backing): void {
    backing.path.moved(binding.device);
    if (backing.path.attach(binding.device) < 0) this.#left(binding, backing);
  }

  #back(space: AddressSpace): Backing | number {
    const context = { space, memory: this.#memory, host: this.#host };
    const { kind, choice } = choose(context, this.#wish);
    if (kind === null) return -errno.EOPNOTSUPP;
    try {
      const backing = { path: kind.create(context), choice, devices: 0 };
      this.#backings.set(space, backing);
      return backing;
    } catch (error) {
      if (!(error instanceof HostError)) throw error;
      this.#error = error;
      return -error.errno;
    }
  }

  #left(binding: Binding, backing: Backing): void {
    const space = binding.space!;
    binding.space = null;
    backing.devices--;
    if (backing.devices === 0) this.#release(space, backing);
  }

  #release(space: AddressSpace, backing: Backing): void {
    this.#backings.delete(space);
    backing.path.close();
  }
}
