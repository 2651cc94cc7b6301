import type { GuestMemory } from '../memory/guest-memory.ts';
import type { IntervalMap } from '../memory/interval-map.ts';

/** Where one host mapping ends and another goes on in guest and host memory with the same permission: there two can become one. */
export class Seams {
  readonly #held: IntervalMap;
  readonly #memory: GuestMemory;
  /** First pages of the right-hand mappings. */
  readonly #at = new Set<number>();

  constructor(held: IntervalMap, memory: GuestMemory) {
    this.#held = held;
    this.#memory = memory;
  }

  /** A mapping that the map has now. */
  inserted(first: number, pages: number): void {
    this.#check(first);
    this.#check(first + pages);
  }

  /** Mappings that are still there and go: all that lie in the range. */
  removing(first: number, pages: number): void {
    if (this.#at.size === 0) return;
    this.#at.delete(first + pages);
    this.#held.intervals(first, first + pages - 1, (at) => {
      this.#at.delete(at);
      return true;
    });
  }

  /** Mappings around some seam that can become one, `most` of them at most: [first, end), and how many they are; null: there is no seam. */
  chain(most: number): { readonly first: number; readonly end: number; readonly mappings: number } | null {
    for (const seam of this.#at) {
      let first = this.#held.firstOf(this.#held.lookup(seam - 1));
      let end = this.#endOf(seam);
      let mappings = 2;
      for (; mappings < most && this.#at.has(first); mappings++) first = this.#held.firstOf(this.#held.lookup(first - 1));
      for (; mappings < most && this.#at.has(end); mappings++) end = this.#endOf(end);
      return { first, end, mappings };
    }
    return null;
  }

  #endOf(page: number): number {
    const slot = this.#held.lookup(page);
    return this.#held.firstOf(slot) + this.#held.pagesOf(slot);
  }

  #check(at: number): void {
    const left = at > 0 ? this.#held.lookup(at - 1) : -1;
    const right = this.#held.lookup(at);
    if (left < 0 || right < 0 || left === right) return;
    const held = this.#held;
    const last = held.valueOf(left) + held.pagesOf(left) - 1;
    const host = this.#memory.hostPfn(last);
    const continues =
      held.valueOf(right) === last + 1 &&
      held.permissionOf(right) === held.permissionOf(left) &&
      host >= 0 &&
      this.#memory.hostPfn(last + 1) === host + 1;
    if (continues) this.#at.add(at);
  }
}
