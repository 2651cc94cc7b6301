import type { HostError } from '../host/errno.ts';
import type { IntervalMap } from '../memory/interval-map.ts';
import { type DifferenceLists, difference } from './difference.ts';
import { DirtyRanges } from './dirty-ranges.ts';
import { RunList } from './run-list.ts';
import { SliceSize } from './slice-size.ts';
import { type Asker, WantedRuns } from './wanted-runs.ts';

/** Runs of one flush: no limit that is met, since what a guest operation says has changed is what the guest did. */
const RUN_LIMIT = 2 ** 28;
/** Host calls of one slice: a tenth of what 50 ms are to a host that takes 2 µs a call, for a call may pin memory. */
const slices = new SliceSize(1 << 11);

/** Surveys that are over. What the spaces of all guests share takes no memory of each, and lies in the processor's caches already. */
const idle: Survey[] = [];

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
  /** What the survey did not come to. Nothing of it is wanted for now. */
  readonly rest = new DirtyRanges();
  readonly #examined = new DirtyRanges();
  readonly #asked: WantedRuns;

  private constructor(asker: Asker) {
    this.#asked = new WantedRuns(asker);
  }

  /** Until `end` nobody else's. The work of a run is the host calls that map it. */
  static by(asker: Asker): Survey {
    const survey = idle.pop() ?? new Survey(asker);
    survey.#asked.asker = asker;
    return survey;
  }

  /** What was found is not needed any more. */
  end(): void {
    idle.push(this);
  }

  get error(): HostError | null {
    return this.#asked.error;
  }

  /** Fills the lists and says whether they hold all; if not, what lies in `rest` is short of mappings. */
  take(dirty: DirtyRanges, now: IntervalMap): boolean {
    this.#begin(Number.POSITIVE_INFINITY);
    for (let i = 0; i < dirty.count; i++) {
      const [first, last] = [dirty.first(i), dirty.last(i)];
      if (now.intervals(first, last, this.#visitHeld) <= last) return false;
      // Behind what was too much nothing is asked: a guest's loops cost one bound a flush, and what it has there is unmapped.
      const next = this.rest.count > 0 ? first : this.#asked.ask(first, last);
      if (next <= last) this.rest.add(next, last);
    }
    return difference(dirty, this.lists, this.splits);
  }

  /** The same for ranges that nothing stale is in: one slice of them, and what it did not come to stays as it is. */
  takeSlice(dirty: DirtyRanges, now: IntervalMap): boolean {
    this.#begin(slices.now);
    const examined = this.#examined;
    for (let i = 0; i < dirty.count; i++) {
      const [first, last] = [dirty.first(i), dirty.last(i)];
      const next = this.rest.count > 0 ? first : this.#asked.ask(first, last);
      if (next <= last) this.rest.add(next, last);
      if (next <= first) continue;
      examined.add(first, next - 1);
      if (now.intervals(first, next - 1, this.#visitHeld) < next) return false;
    }
    if (this.rest.count > 0) slices.grow();
    return difference(examined, this.lists, this.splits);
  }

  #begin(most: number): void {
    this.lists.held.clear();
    this.#asked.most = most;
    this.#asked.begin(this.lists.wanted);
    this.rest.clear();
    this.#examined.clear();
  }

  readonly #visitHeld = (iova: number, gpa: number, pages: number, permission: number): boolean => {
    const { held } = this.lists;
    // One mapping can touch several dirty ranges.
    if (held.length > 0 && held.iova[held.length - 1] === iova) return true;
    return held.push(iova, gpa, pages, permission);
  };
}
