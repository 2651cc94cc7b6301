/** Pages of a block: 16 MiB of guest memory, 32 KiB of stamps. */
const BLOCK_PAGES = 4096;

/** Closed range of guest page numbers. */
export interface WrittenRange {
  readonly first: number;
  readonly last: number;
}

/**
 * Which guest pages were written, and when: a page has the number of the round in which it was written last. Several readers can have each its own
 * `since`, and one that died can ask again. Takes 8 bytes for a page of each 16 MiB block that anything was written in.
 *
 * @example
 * const log = new WriteLog();
 * log.note(5, 2);
 * const round = log.endRound(); // 1
 * log.note(6, 1);
 * log.since(0); // [{ first: 5, last: 6 }]
 * log.since(round); // [{ first: 6, last: 6 }]
 */
export class WriteLog {
  readonly #blocks = new Map<number, Float64Array>();
  #round = 1;

  /** Pages [first, first + pages) were written. */
  note(first: number, pages: number): void {
    for (let page = first; page < first + pages; ) {
      const block = Math.floor(page / BLOCK_PAGES);
      const end = Math.min(first + pages, (block + 1) * BLOCK_PAGES);
      let stamps = this.#blocks.get(block);
      if (stamps === undefined) {
        stamps = new Float64Array(BLOCK_PAGES);
        this.#blocks.set(block, stamps);
      }
      stamps.fill(this.#round, page - block * BLOCK_PAGES, end - block * BLOCK_PAGES);
      page = end;
    }
  }

  /** The round that ended last. */
  get ended(): number {
    return this.#round - 1;
  }

  /** What is noted from now on belongs to the next round. Returns the number of the one that has ended, for `since`. */
  endRound(): number {
    return this.#round++;
  }

  /** Pages that were written after the round, ascending, neighbours joined; 0: all. */
  since(round: number): WrittenRange[] {
    const ranges: { first: number; last: number }[] = [];
    for (const block of [...this.#blocks.keys()].sort((a, b) => a - b)) {
      const stamps = this.#blocks.get(block)!;
      for (let at = 0; at < BLOCK_PAGES; at++) {
        if (stamps[at] <= round) continue;
        const page = block * BLOCK_PAGES + at;
        const before = ranges.at(-1);
        if (before?.last === page - 1) before.last = page;
        else ranges.push({ first: page, last: page });
      }
    }
    return ranges;
  }
}
