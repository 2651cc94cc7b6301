import { errno } from '../host/errno.ts';
import type { HostSpace } from '../host/host.ts';
import type { IntervalMap } from '../memory/interval-map.ts';

/** Of the host's mappings that can stand at one time, the part that is kept for splits. */
const RESERVED_PART = 1 / 16;

/** A host space and what it maps (guest pages), written down call by call: it is true whichever call failed. */
export class HeldSpace {
  readonly hostSpace: HostSpace;
  readonly held: IntervalMap;
  /** Mappings more that the guest could make of what is held by unmapping single pages of it. */
  #splittable = 0;

  constructor(hostSpace: HostSpace, held: IntervalMap) {
    this.hostSpace = hostSpace;
    this.held = held;
  }

  /**
   * Maps what the guest asks for anew, as long as there is room for what its unmaps may split: an unmap cannot be refused for
   * want of a mapping when the map that made it possible was. Returns 0 or a negative errno; -ENOSPC without a host call.
   */
  add(iova: number, gpa: number, hostPfn: number, pages: number, permission: number): number {
    const { mappingLimit } = this.hostSpace;
    const reserve = Math.min(this.#splittable + splits(pages), Math.max(1, Math.floor(mappingLimit * RESERVED_PART)));
    if (Number.isFinite(mappingLimit) && this.held.size + 1 + reserve > mappingLimit) return -errno.ENOSPC;
    return this.restore(iova, gpa, hostPfn, pages, permission);
  }

  /** Maps what was mapped before, with what is kept for it. Returns 0 or a negative errno. */
  restore(iova: number, gpa: number, hostPfn: number, pages: number, permission: number): number {
    if (this.held.size === this.held.limit) return -errno.ENOSPC;
    const answer = this.hostSpace.map(iova, hostPfn, pages, permission);
    if (answer < 0) return answer;
    this.held.insert(iova, pages, gpa, permission);
    this.#splittable += splits(pages);
    return 0;
  }

  /** Takes one mapping away. Returns 0 or a negative errno. */
  remove(iova: number, pages: number): number {
    const answer = this.hostSpace.unmap(iova, pages);
    // What the kernel does not have is gone, and that was wanted.
    if (answer < 0 && answer !== -errno.ENOENT) return answer;
    this.held.remove(iova, pages);
    this.#splittable -= splits(pages);
    return 0;
  }

  /** Takes `mappings` that lie side by side away in one host call. False: some of them may be gone. */
  removeTogether(first: number, pages: number): boolean {
    if (this.hostSpace.unmap(first, pages) < 0) return false;
    this.held.intervals(first, first + pages - 1, this.#uncount);
    this.held.remove(first, pages);
    return true;
  }

  readonly #uncount = (_first: number, _gpa: number, pages: number): boolean => {
    this.#splittable -= splits(pages);
    return true;
  };
}

/** Every second page taken out of a mapping leaves this many mappings more than it was. */
function splits(pages: number): number {
  return Math.ceil(pages / 2) - 1;
}
