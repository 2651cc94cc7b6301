import { errno, HostError, hostErrorOf } from '../host/errno.ts';
import type { DirtyVisitor, HostSpace } from '../host/host.ts';
import { WRITE } from '../memory/access.ts';
import { PFN_LIMIT } from '../memory/address.ts';
import type { GuestMemory } from '../memory/guest-memory.ts';
import type { IntervalMap } from '../memory/interval-map.ts';
import type { LeftOut } from './left-out.ts';
import { Seams } from './seams.ts';

/** Of the host's mappings that can stand at one time, the part that is kept for splits at most. */
const RESERVED_PART = 1 / 16;

/** Neighbours that become one mapping at a time: as many see a gap at once. */
const MERGED_AT_ONCE = 64;

/** What is mapped, and what of it the host cannot map. */
interface HeldMemory {
  readonly memory: GuestMemory;
  readonly leftOut: LeftOut;
}

/**
 * A host space and what it maps (guest pages), written down call by call: it is true whichever call failed. Where the host limits mappings,
 * some are kept for what unmaps split, and neighbours that continue each other become one where mappings run short.
 */
export class HeldSpace {
  readonly hostSpace: HostSpace;
  readonly held: IntervalMap;
  readonly #memory: GuestMemory;
  readonly #leftOut: LeftOut;
  readonly #lost: (first: number, last: number) => void;
  /** null: the host does not limit mappings. */
  readonly #seams: Seams | null;
  /** Mappings more that the guest could make of what is held by unmapping single pages of it. */
  #splittable = 0;
  #merges = 0;
  /** Where it was none of the host's calls. */
  #error: HostError | null = null;

  /** `lost` hears of pages whose mapping went for a larger one, and neither could be made. */
  constructor(hostSpace: HostSpace, held: IntervalMap, { memory, leftOut }: HeldMemory, lost: (first: number, last: number) => void) {
    this.hostSpace = hostSpace;
    this.held = held;
    this.#memory = memory;
    this.#leftOut = leftOut;
    this.#lost = lost;
    held.intervals(0, PFN_LIMIT - 1, (_first, gpa, pages) => memory.reached(gpa, pages) || true);
    this.#seams = Number.isFinite(hostSpace.mappingLimit) ? new Seams(held, memory) : null;
  }

  /** Of the last call that failed. */
  get error(): HostError | null {
    return this.#error ?? this.hostSpace.error;
  }

  /** Mappings that can stand at one time. */
  get limit(): number {
    return Math.min(this.hostSpace.mappingLimit, this.held.limit);
  }

  /** How often neighbours became one mapping. */
  get merges(): number {
    return this.#merges;
  }

  /**
   * Maps what the guest asks for anew, as long as there is room for what its unmaps may split: an unmap cannot be refused for
   * want of a mapping when the map that made it possible was. Returns 0 or a negative errno; -ENOSPC without a host call for it.
   */
  add(iova: number, gpa: number, pages: number, permission: number): number {
    return this.#hasRoomFor(pages) ? this.#map(iova, gpa, pages, permission) : -errno.ENOSPC;
  }

  /** Maps what was mapped before, with what is kept for it. Returns 0 or a negative errno. */
  restore(iova: number, gpa: number, pages: number, permission: number): number {
    return this.makeRoom(1) ? this.#map(iova, gpa, pages, permission) : -errno.ENOSPC;
  }

  /** Whether so many mappings more can stand; neighbours that continue each other become one until they can. */
  makeRoom(mappings: number): boolean {
    while (this.held.size + mappings > this.limit) if (!this.#merge()) return false;
    return true;
  }

  /** Whether so many more would leave most of the host's mappings free. */
  hasPlenty(mappings: number): boolean {
    return this.held.size + mappings < this.limit / 2;
  }

  /** A device cannot be attached, with this answer: the host may have found out only now that it cannot map registers. Whether some were taken away. */
  leaveOutRegisters(answer: number): boolean {
    const gone: [iova: number, pages: number][] = [];
    this.held.intervals(0, PFN_LIMIT - 1, (iova, gpa, pages) => !this.#leftOut.takes(gpa, answer) || gone.push([iova, pages]) > 0);
    return gone.length > 0 && gone.every(([iova, pages]) => this.remove(iova, pages) === 0);
  }

  /** Takes one mapping away. Returns 0 or a negative errno. */
  remove(iova: number, pages: number): number {
    const answer = this.#unmap(iova, pages);
    // What the kernel does not have is gone, and that was wanted.
    if (answer < 0 && answer !== -errno.ENOENT) return answer;
    this.#forget(iova, pages);
    return 0;
  }

  /** Takes mappings that lie side by side away in one host call. False: some of them may be gone. */
  removeTogether(first: number, pages: number): boolean {
    let answer = 0;
    const unmap = (from: number, end: number): boolean => {
      answer = this.#unmap(from, end - from);
      return answer === 0;
    };
    // A host that tells of what was written does so up to the first hole only.
    if (this.#memory.isLogged) this.#extents(first, first + pages - 1, unmap);
    else unmap(first, first + pages);
    if (answer < 0) return false;
    this.#forget(first, pages);
    return true;
  }

  #hasRoomFor(pages: number): boolean {
    if (this.#seams === null) return this.makeRoom(1);
    for (;;) {
      const kept = Math.max(1, Math.floor(this.hostSpace.mappingLimit * RESERVED_PART));
      if (this.held.size + 1 + Math.min(this.#splittable + splits(pages), kept) <= this.limit) return true;
      if (!this.#merge()) return false;
    }
  }

  #map(iova: number, gpa: number, pages: number, permission: number): number {
    this.#error = null;
    if (!this.#memory.reached(gpa, pages)) {
      this.#error = new HostError(
        'populate',
        errno.ENOMEM,
        { first: gpa, last: gpa + pages - 1 },
        'discarded guest RAM cannot be populated',
      );
      return -errno.ENOMEM;
    }
    const answer = this.hostSpace.map(iova, this.#memory.hostPfn(gpa), pages, permission);
    if (answer < 0) {
      this.#memory.unreached(gpa, pages);
      return this.#leftOut.takes(gpa, answer) ? 0 : answer;
    }
    this.held.insert(iova, pages, gpa, permission);
    if (this.#seams === null) return 0;
    this.#splittable += splits(pages);
    this.#seams.inserted(iova, pages);
    return 0;
  }

  /** Without a host that remembers what was written, all that devices can write counts as written. */
  noteWrites(): void {
    if (!this.#memory.isLogged) return;
    const { dirty } = this.hostSpace;
    this.#extents(0, PFN_LIMIT - 1, (first, end) => {
      if (dirty === null) this.#written(first, end - 1);
      else dirty.read(first, end - first, this.#written);
      return true;
    });
  }

  /** Visits [first, end) of mappings that lie side by side, all in the range; false ends it. */
  #extents(first: number, last: number, visit: (first: number, end: number) => boolean): void {
    let from = first;
    let end = -1;
    let goesOn = true;
    this.held.intervals(first, last, (iova, _gpa, pages) => {
      if (iova !== end && end >= 0) goesOn = visit(from, end);
      if (iova !== end) from = iova;
      end = iova + pages;
      return goesOn;
    });
    if (goesOn && end >= 0) visit(from, end);
  }

  /** What goes was written until now: nobody can be asked later. */
  #unmap(first: number, pages: number): number {
    const { dirty } = this.hostSpace;
    if (!this.#memory.isLogged) return this.hostSpace.unmap(first, pages);
    if (dirty !== null) return dirty.unmap(first, pages, this.#written);
    this.#written(first, first + pages - 1);
    return this.hostSpace.unmap(first, pages);
  }

  /** What is for reading only was not, whoever says so. */
  readonly #written: DirtyVisitor = (first, last) => {
    this.held.intervals(first, last, (iova, gpa, pages, permission) => {
      const from = Math.max(iova, first);
      if ((permission & WRITE) !== 0) this.#memory.wrote(gpa + (from - iova), Math.min(iova + pages, last + 1) - from);
      return true;
    });
  };

  readonly #leave = (_first: number, gpa: number, pages: number): boolean => {
    this.#memory.unreached(gpa, pages);
    return true;
  };

  /** Closes the host space. Returns why it could not, and then devices may reach what it maps for ever. */
  close(): HostError | null {
    this.noteWrites();
    const error = closeSpace(this.hostSpace);
    if (error === null) this.held.intervals(0, PFN_LIMIT - 1, this.#leave);
    return error;
  }

  #forget(first: number, pages: number): void {
    this.held.intervals(first, first + pages - 1, this.#leave);
    if (this.#seams !== null) {
      this.#seams.removing(first, pages);
      this.held.intervals(first, first + pages - 1, this.#uncount);
    }
    this.held.remove(first, pages);
  }

  readonly #uncount = (_first: number, _gpa: number, pages: number): boolean => {
    this.#splittable -= splits(pages);
    return true;
  };

  /** Makes one mapping of some neighbours; devices see a gap there meanwhile. False: none is to be had, or the host refused. */
  #merge(): boolean {
    const chain = this.#seams?.chain(MERGED_AT_ONCE) ?? null;
    if (chain === null) return false;
    const { first, end } = chain;
    const slot = this.held.lookup(first);
    const gpa = this.held.valueOf(slot);
    const permission = this.held.permissionOf(slot);
    const parts: [first: number, pages: number][] = [];
    this.held.intervals(first, end - 1, (at, _gpa, pages) => parts.push([at, pages]) > 0);
    this.#merges++;
    const gone = this.removeTogether(first, end - first) ? parts : parts.filter(([at, pages]) => this.remove(at, pages) === 0);
    if (gone.length === parts.length && this.#map(first, gpa, end - first, permission) === 0) return true;
    for (const [at, pages] of gone) if (this.#map(at, gpa + (at - first), pages, permission) < 0) this.#lost(at, at + pages - 1);
    return false;
  }
}

/** Closes a space within a guest operation, which nothing may throw out of. The error, when the kernel kept the space. */
export function closeSpace(hostSpace: HostSpace): HostError | null {
  try {
    hostSpace.close();
    return null;
  } catch (error) {
    return hostErrorOf(error);
  }
}

/** Every second page taken out of a mapping leaves this many mappings more than it was. */
function splits(pages: number): number {
  return Math.ceil(pages / 2) - 1;
}
