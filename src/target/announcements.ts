import type { CountedMemory } from '../pagetable/two-stage.ts';
import type { LargeLeaves } from './large-leaves.ts';
import { LargeRanges } from './large-ranges.ts';
import type { Observed } from './observed.ts';
import type { AddressSpace } from './target.ts';

/** Pages from which on a range of a large space is announced in parts. */
const LARGE = 1 << 13;
/** Parts of one range: 64 GiB of 4 KiB pages. */
const PARTS = 32;

/** What the guest's tables mean. */
export interface TabledSpace extends AddressSpace {
  readonly leaves: LargeLeaves;
  /** One enumeration does not come to the end of the tables. */
  readonly isLarge: boolean;
}

/**
 * How what a guest says of its tables is told to the observer, in which pieces, and when its wait for that is over. `tables` is what spaces are read
 * through; `budget`: entries of it that one register access reads, after which it begins nothing new.
 */
export class Announcements<Space extends TabledSpace> {
  readonly #observed: Observed;
  readonly #tables: CountedMemory;
  readonly #budget: number;
  readonly #large = new LargeRanges<Space>(PARTS);
  #inCommands = false;
  #readBefore = 0;

  constructor(observed: Observed, tables: CountedMemory, budget: number) {
    this.#observed = observed;
    this.#tables = tables;
    this.#budget = budget;
  }

  /** A register access begins, with a budget of its own. */
  begin(): void {
    this.#readBefore = this.#tables.loads;
  }

  /** The same, and carries out commands, the last of which may wait. */
  beginCommands(): void {
    this.begin();
    this.#inCommands = true;
  }

  /** As `flush`, if that is due. */
  endCommands(isDue = true): boolean {
    if (isDue) this.flush();
    this.#inCommands = false;
    return this.#large.isEmpty;
  }

  /** So many entries were read elsewhere. */
  spend(entries: number): void {
    this.#readBefore -= entries;
  }

  /** The access has read as much as one may: the rest of its commands follows. */
  get isSpent(): boolean {
    return this.#tables.loads - this.#readBefore >= this.#budget;
  }

  /** Announces all that was made of the leaves that covered [first, last], or keeps it for `flush`. Returns the pages that were announced. */
  say(space: Space, first: number, last: number): number {
    const range = space.leaves.widened(first, last);
    const pages = range.last - range.first + 1;
    if (this.#inCommands && space.isLarge && pages > LARGE) {
      this.#large.add(space, range);
      return 0;
    }
    this.#observed.changed(space, range.first, range.last);
    return pages;
  }

  /** Before the guest can see that its commands are done. False: the hardware has a part of what they announced. */
  flush(): boolean {
    this.#observed.retry();
    this.#large.advance(this.#announcePart);
    this.#observed.flush();
    return this.#large.isEmpty;
  }

  /** Announces of a large range what an enumeration can read at once, so that nothing which the guest left alone is missed meanwhile. */
  readonly #announcePart = (space: Space, first: number, last: number, all: boolean): number => {
    if (this.isSpent) return first;
    const reached = all ? last + 1 : space.enumerate(first, last, () => true);
    this.#observed.changed(space, first, reached - 1);
    return reached;
  };

  forget(space: Space): void {
    this.#large.delete(space);
  }

  clear(): void {
    this.#large.clear();
  }
}
