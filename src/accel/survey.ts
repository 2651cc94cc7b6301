import { errno, HostError } from '../host/errno.ts';
import { MMIO, READ, READ_WRITE } from '../memory/access.ts';
import type { GuestMemory } from '../memory/guest-memory.ts';
import type { IntervalMap } from '../memory/interval-map.ts';
import type { AddressSpace } from '../target/target.ts';
import { type DifferenceLists, difference } from './difference.ts';
import { DirtyRanges } from './dirty-ranges.ts';
import { RunList } from './run-list.ts';

/** Runs of one flush. */
const RUN_LIMIT = 1 << 20;

/** Asks what dirty ranges mean, and says what the host has to do so that it has just that. */
export class Survey {
  readonly lists: DifferenceLists = {
    held: new RunList(RUN_LIMIT),
    wanted: new RunList(RUN_LIMIT),
    removals: new RunList(RUN_LIMIT),
    remnants: new RunList(RUN_LIMIT),
    additions: new RunList(RUN_LIMIT),
    kept: new RunList(RUN_LIMIT),
  };
  readonly splits = { count: 0, grain: Number.POSITIVE_INFINITY };
  /** What the last survey did not come to. Nothing of it is wanted for now. */
  readonly rest = new DirtyRanges();
  /** What leads to no RAM is left out without an error: RAM has gone, and the guest's mappings of it with it. */
  tolerant = false;
  /** The first run that the guest means and that can be mapped nowhere. */
  error: HostError | null = null;
  readonly #space: AddressSpace;
  readonly #memory: GuestMemory;

  constructor(space: AddressSpace, memory: GuestMemory) {
    this.#space = space;
    this.#memory = memory;
  }

  /** Fills the lists and says whether they hold all; if not, what lies in `rest` is short of mappings. */
  take(dirty: DirtyRanges, now: IntervalMap): boolean {
    const { held, wanted } = this.lists;
    held.clear();
    wanted.clear();
    this.rest.clear();
    this.error = null;
    for (let i = 0; i < dirty.count; i++) {
      const [first, last] = [dirty.first(i), dirty.last(i)];
      if (now.intervals(first, last, this.#visitHeld) <= last) return false;
      // Behind what was too much nothing is asked: a guest's loops cost one bound a flush, and what it has there is unmapped.
      const next = this.rest.count > 0 ? first : this.#space.enumerate(first, last, this.#visitWanted);
      if (next <= last) this.rest.add(next, last);
    }
    return difference(dirty, this.lists, this.splits);
  }

  readonly #visitHeld = (iova: number, gpa: number, pages: number, permission: number): boolean => {
    const { held } = this.lists;
    // One mapping can touch several dirty ranges.
    if (held.length > 0 && held.iova[held.length - 1] === iova) return true;
    return held.push(iova, gpa, pages, permission);
  };

  /** Cuts a run where host memory is not contiguous; ROM is for reading. What is no RAM has no host page: registers of devices are left out, anything else is an error. */
  readonly #visitWanted = (iova: number, gpa: number, pages: number, permission: number): boolean => {
    if ((permission & READ_WRITE) === 0) return true;
    for (let done = 0; done < pages; ) {
      const run = this.#memory.hostRun(gpa + done, pages - done);
      if (run > 0) {
        const granted = permission & (this.#memory.isReadOnly(gpa + done) ? READ : READ_WRITE);
        if (granted !== 0 && !this.lists.wanted.push(iova + done, gpa + done, run, granted)) return false;
        done += run;
        continue;
      }
      if ((permission & MMIO) === 0 && this.#space.owner === 'target' && !this.tolerant) {
        const range = { first: iova + done, last: iova + pages - 1 };
        this.error ??= new HostError(this.#space.name, errno.EFAULT, range, 'leads outside guest RAM');
      }
      const next = this.#memory.nextHostPage(gpa + done);
      if (next < 0 || next >= gpa + pages) return true;
      done = next - gpa;
    }
    return true;
  };
}
