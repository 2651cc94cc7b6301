import { requireInteger } from '../memory/arguments.ts';
import type { GuestMemory } from '../memory/guest-memory.ts';
import type { WriteLog, WrittenRange } from '../memory/write-log.ts';

/** Guest pages that devices may have written. */
export interface DirtyPages {
  /** For the next call. */
  readonly round: number;
  /** Ascending, neighbours joined. */
  readonly pages: readonly WrittenRange[];
  /** Where passed-through devices could have written and may not have: space and reason. What is not named is told by the host's own dirty bits. */
  readonly inexact: readonly string[];
}

/** What a machine knows of stores to guest memory, while somebody wants to know. */
export class DirtyLog {
  readonly #memory: GuestMemory;
  /** null: nobody asks. */
  #log: WriteLog | null = null;
  #end = () => {};

  constructor(memory: GuestMemory) {
    this.#memory = memory;
  }

  /** The disposer ends it. @throws TypeError while it is there already */
  start(): () => void {
    const [log, end] = this.#memory.logWrites();
    this.#log = log;
    this.#end = () => {
      if (this.#log === log) this.#log = null;
      end();
    };
    return this.#end;
  }

  /**
   * What was written since a round, of which `note` has the last said first; it answers where that is too much.
   * @throws TypeError before `start`; RangeError for a number of no round
   */
  collect(since: number, note: () => readonly string[]): DirtyPages {
    if (this.#log === null) throw new TypeError('Machine: collectDirty without logDirty');
    requireInteger('Machine', 'since', since, 0, this.#log.ended);
    const inexact = note();
    const round = this.#log.endRound();
    return { round, pages: this.#log.since(since), inexact };
  }

  end(): void {
    this.#end();
  }
}
