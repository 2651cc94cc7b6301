import type { Host } from '../host/host.ts';
import { PAGE_BYTES, pfnOf } from '../memory/address.ts';
import type { GuestMemory, GuestRegion } from '../memory/guest-memory.ts';

/** Tells a host of the guest RAM that it will map, as that comes and goes. */
export class SharedRam {
  readonly #host: Host;
  readonly #memory: GuestMemory;
  readonly #shared = new Map<GuestRegion, () => void>();

  constructor(host: Host, memory: GuestMemory) {
    this.#host = host;
    this.#memory = memory;
    this.add();
  }

  /** What is new: before it is mapped. */
  add(): void {
    for (const region of this.#memory.regions) {
      const { hostAddress, buffer, offset = 0, bytes = buffer.byteLength - offset, file = null } = region;
      if (hostAddress === undefined || this.#shared.has(region)) continue;
      const taken = this.#host.share?.({ first: pfnOf(hostAddress), pages: bytes / PAGE_BYTES, file });
      if (taken !== undefined) this.#shared.set(region, taken);
    }
  }

  /** What has gone: after it was unmapped. */
  drop(): void {
    for (const [region, release] of this.#shared) {
      if (this.#memory.regions.includes(region)) continue;
      release();
      this.#shared.delete(region);
    }
  }

  close(): void {
    for (const release of this.#shared.values()) release();
    this.#shared.clear();
  }
}
