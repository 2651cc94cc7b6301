import { AHEAD_BYTES, readAhead } from '../memory/ahead.ts';
import type { TableMemory } from '../pagetable/page-table.ts';

/** Commands are read ahead so many at first: an invalidation and its wait. */
const FIRST = 2;

/** The commands that come most, and change nothing but caches: carried out in a straight line. */
export interface UsualCommands {
  /** Carries out the first of `count` commands in AHEAD, up to one of another kind. Returns how many there were. */
  run(count: number): number;
}

/**
 * Usual commands of a guest's queue, read ahead: twice as many each time as before, so what is read in vain is no more than what was used,
 * and two.
 */
export class CommandsAhead {
  readonly #memory: TableMemory;
  readonly #usual: UsualCommands;
  readonly #lg2: number;

  /** `lg2`: of the bytes of a command. */
  constructor(memory: TableMemory, usual: UsualCommands, lg2: number) {
    this.#memory = memory;
    this.#usual = usual;
    this.#lg2 = lg2;
  }

  /**
   * Carries out commands from index `from` on, `limit` at most, up to one that is not usual or cannot be read so; the queue is at (hi, lo), and `mask` is its
   * last index. Returns how many there were.
   */
  run(hi: number, lo: number, mask: number, from: number, limit: number): number {
    const lg2 = this.#lg2;
    let done = 0;
    let most = FIRST;
    while (done < limit) {
      const index = (from + done) & mask;
      const count = Math.min(limit - done, ((mask - index) >>> 0) + 1, most, AHEAD_BYTES >> lg2);
      const low = (lo + (index << lg2)) | 0;
      // A queue that is aligned to less than its size may lie on both sides of a multiple of 4 GiB.
      const high = hi + (index >>> (32 - lg2)) + (low >>> 0 < lo >>> 0 ? 1 : 0);
      if (!readAhead(this.#memory, high, low, count << lg2)) break;
      const usual = this.#usual.run(count);
      done += usual;
      if (usual < count) break;
      most = 2 * count;
    }
    return done;
  }
}
