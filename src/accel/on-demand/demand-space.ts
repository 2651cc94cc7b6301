import { MMIO, READ, READ_WRITE, WRITE } from '../../memory/access.ts';
import type { GuestMemory } from '../../memory/guest-memory.ts';
import type { AddressSpace, RunVisitor } from '../../target/target.ts';
import { FollowedSpace } from '../followed-space.ts';

/** Pages that become resident, and leave, at once, aligned: who asks for one asks for its neighbours next. */
export const BLOCK_PAGES = 16;

/** Blocks that hardware has of one space at most unless it is said otherwise: 4 GiB. */
export const BLOCK_LIMIT = 1 << 16;

/** What a page that a device asks for means: it can have it now; its guest has not mapped it so; the guest has, to what no host can map. */
export type Admission = 'resident' | 'unmapped' | 'unreachable';

/**
 * An address space whose guest announces nothing, and need not: hardware has of it the blocks only that its devices have asked for. What is read
 * anew of those is found by what the guest says has changed, as in any space, and by the next request.
 *
 * Enumerating costs what the space's own enumeration does, once for each stretch of resident blocks in the range.
 */
export class DemandSpace extends FollowedSpace {
  readonly #memory: GuestMemory;
  readonly #limit: number;
  /** Block numbers; the one that was asked for longest ago is first. */
  readonly #blocks = new Set<number>();
  #granted = 0;

  constructor(space: AddressSpace, memory: GuestMemory, limit: number = BLOCK_LIMIT) {
    super(space);
    this.#memory = memory;
    this.#limit = limit;
  }

  /** Blocks that the hardware may have. */
  get resident(): number {
    return this.#blocks.size;
  }

  enumerate(first: number, last: number, visit: RunVisitor): number {
    let ended = false;
    const visiting: RunVisitor = (iova, gpa, pages, permission) => {
      ended = !visit(iova, gpa, pages, permission);
      return !ended;
    };
    for (const [from, to] of this.#stretches(first, last)) {
      const next = this.space.enumerate(from, to, visiting);
      if (ended || next <= to) return next;
    }
    return last + 1;
  }

  /** Resident blocks in the range, neighbours joined, clipped to it. */
  #stretches(first: number, last: number): [first: number, last: number][] {
    const [low, high] = [Math.floor(first / BLOCK_PAGES), Math.floor(last / BLOCK_PAGES)];
    const found: number[] = [];
    if (high - low < this.#blocks.size) {
      for (let block = low; block <= high; block++) if (this.#blocks.has(block)) found.push(block);
    } else {
      for (const block of this.#blocks) if (block >= low && block <= high) found.push(block);
      found.sort((a, b) => a - b);
    }
    const stretches: [number, number][] = [];
    for (const block of found) {
      const [from, to] = [Math.max(first, block * BLOCK_PAGES), Math.min(last, (block + 1) * BLOCK_PAGES - 1)];
      const before = stretches.at(-1);
      if (before?.[1] === from - 1) before[1] = to;
      else stretches.push([from, to]);
    }
    return stretches;
  }

  /** A device wants the page: it is the hardware's at the path's next flush, and what was asked for longest ago may be so no longer. */
  admit(pfn: number, access: number): Admission {
    const answer = this.#look(pfn, access);
    if (answer !== 'resident') return answer;
    const block = Math.floor(pfn / BLOCK_PAGES);
    if (!this.#blocks.delete(block) && this.#blocks.size >= this.#limit) this.#evictOldest();
    this.#blocks.add(block);
    this.#changed(block);
    return answer;
  }

  #evictOldest(): void {
    const [block] = this.#blocks;
    this.#blocks.delete(block);
    this.#changed(block);
  }

  #changed(block: number): void {
    this.path?.changed(block * BLOCK_PAGES, (block + 1) * BLOCK_PAGES - 1);
  }

  #look(pfn: number, access: number): Admission {
    let guestPage = -1;
    this.#granted = 0;
    this.space.enumerate(pfn, pfn, (_iova, gpa, _pages, permission) => {
      guestPage = gpa;
      this.#granted = permission;
      return true;
    });
    const wanted = access & READ_WRITE || READ;
    if ((wanted & ~this.#granted) !== 0) return 'unmapped';
    const isThere = (this.#granted & MMIO) === 0 && this.#memory.hostRun(guestPage, 1) > 0;
    return isThere && !((wanted & WRITE) !== 0 && this.#memory.isReadOnly(guestPage)) ? 'resident' : 'unreachable';
  }
}
