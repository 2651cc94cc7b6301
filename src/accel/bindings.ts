import type { HostDevice } from '../host/host.ts';
import { NO_PASID } from '../target/target.ts';
import type { Binding } from './device-group.ts';

/** What is passed through, by who makes the requests: an endpoint, and a PASID or none. */
export class Bindings {
  readonly #endpoints = new Map<number, Map<number, Binding>>();
  readonly #devices = new Map<HostDevice, Binding>();

  get(endpoint: number, pasid = NO_PASID): Binding | undefined {
    return this.#endpoints.get(endpoint)?.get(pasid);
  }

  of(device: HostDevice): Binding | undefined {
    return this.#devices.get(device);
  }

  put(binding: Binding): void {
    const { endpoint, pasid, device } = binding;
    const mine = this.#endpoints.get(endpoint) ?? new Map<number, Binding>();
    this.#endpoints.set(endpoint, mine.set(pasid, binding));
    this.#devices.set(device, binding);
  }

  delete({ endpoint, pasid, device }: Binding): void {
    const mine = this.#endpoints.get(endpoint);
    if (mine?.delete(pasid) === true && mine.size === 0) this.#endpoints.delete(endpoint);
    this.#devices.delete(device);
  }

  get endpoints(): readonly number[] {
    return [...this.#endpoints.keys()];
  }

  get all(): readonly Binding[] {
    return [...this.#devices.values()];
  }
}
