import { errno, HostError } from '../host/errno.ts';
import type { HostDevice } from '../host/host.ts';
import { WRITE } from '../memory/access.ts';
import type { AddressSpace } from '../target/target.ts';
import type { Attachments } from './attachments.ts';
import type { DifferenceLists } from './difference.ts';
import { DirtyRanges } from './dirty-ranges.ts';
import type { HeldSpace } from './held-space.ts';
import { NOWHERE, type Path, type PathContext, type PathCounters, type PathKind } from './path.ts';
import { Residence } from './residence.ts';
import type { RunList } from './run-list.ts';
import { Survey } from './survey.ts';
import type { Asker } from './wanted-runs.ts';

/** Mappings above which a split by a copy costs the guest more time than the gap costs the device. */
const COPY_LIMIT = 1024;

/** lg2 of the host mappings that one run is cut into at most, however small the guest's unmaps are: as many as one hypercall maps pages. */
const PIECES_LG2 = 9;

const NOTHING = [new DirtyRanges(), new DirtyRanges()] as const;

/** The path that any host serves: host mappings that follow what the guest means, one DMA_MAP a coalesced run. */
export const shadow: PathKind = {
  name: 'shadow',
  readsGuestTables: false,
  refuse({ host, space }) {
    if (host === null) return 'the endpoint has no host device';
    return space === NOWHERE ? 'nothing is reached' : null;
  },
  create: (context) => new ShadowPath(context),
};

/**
 * Holds what the hardware has (one interval a host mapping, to guest pages), asks the address space what it should have, and
 * issues the difference.
 */
class ShadowPath implements Path {
  readonly name = 'shadow';
  readonly counters: PathCounters = { flushes: 0, splits: 0, splitsWithoutGap: 0, merges: 0 };
  readonly #space: AddressSpace;
  readonly #home: Residence;
  readonly #changed = new DirtyRanges();
  /** What earlier flushes could not do. */
  readonly #owed = new DirtyRanges();
  /** What earlier flushes did not come to. */
  readonly #rest = new DirtyRanges();
  readonly #asker: Asker;
  readonly #devices: Attachments;
  /** Largest size, and alignment, of a new mapping in pages: after a split, what the guest unmaps at once. */
  #grain = Number.POSITIVE_INFINITY;
  /** The same for what a split leaves over. */
  #remnantGrain = Number.POSITIVE_INFINITY;
  /** The apertures that the host covers. */
  #covered: AddressSpace['apertures'] | null = null;
  #populated = false;
  /** The host still maps what a guest has taken out of its own tables: until that is gone, no device is attached. */
  #stale = false;
  /** What is mapped now was there before: a target takes back what failed, or what could not be put back comes later. */
  #returning = false;
  /** First errno of the reconciliation under way. */
  #result = 0;
  #error: HostError | null = null;

  constructor(context: PathContext) {
    const { space, memory } = context;
    this.#space = space;
    const workOf = (pages: number) => 1 + Math.floor(pages / pieceOf(pages, this.#grain));
    this.#asker = { space, memory, tolerant: false, cuts: false, workOf };
    this.#home = new Residence(context, (first, last) => this.#owed.add(first, last));
    this.#devices = this.#home.devices;
  }

  get #now(): HeldSpace {
    return this.#home.now;
  }

  get error(): HostError | null {
    return this.#error;
  }

  get leftOut(): readonly string[] {
    return this.#home.leftOut;
  }

  get pending(): boolean {
    return this.#changed.count > 0 || this.#owed.count > 0 || this.#rest.count > 0 || this.#devices.behind;
  }

  get unfinished(): boolean {
    return this.#rest.count > 0;
  }

  attach(device: HostDevice): number {
    let result = this.populate();
    // Before, so that a host with windows has them when the mappings come in; afterwards, because devices narrow what a host can map.
    if (result === 0) result = this.#coverApertures();
    if (result < 0) return result;
    this.#error = this.#home.separateWrites([device]) ?? this.#error;
    if (this.#stale) {
      this.#devices.await(device);
      return 0;
    }
    result = this.#devices.admit(device);
    if (result < 0 && this.#now.leaveOutRegisters(result)) result = this.#devices.admit(device);
    if (result < 0) return this.#hostFailed(result);
    this.#covered = null;
    result = this.#coverApertures();
    if (result < 0 && this.#devices.expel(device) < 0) this.#devices.forget(device);
    return result;
  }

  detach(device: HostDevice): number {
    const result = this.#devices.expel(device);
    return result < 0 ? this.#hostFailed(result) : 0;
  }

  moved(device: HostDevice): void {
    this.#devices.forget(device);
  }

  changed(first: number, last: number): void {
    this.#changed.add(first, last);
  }

  flush(): number {
    if (!this.pending) return 0;
    this.counters.flushes++;
    const covered = this.#coverApertures();
    const wasStale = this.#stale;
    this.#stale = false;
    const [owed, rest] = this.#owed.count + this.#rest.count > 0 ? [this.#owed, this.#rest].map(taken) : NOTHING;
    const result = covered < 0 ? covered : this.#reconcile(this.#changed);
    if (covered < 0) this.#owed.addAll(this.#changed);
    this.#changed.clear();
    // A target takes back what failed, so that whatever is owed of it was there before.
    this.#returning = this.#space.owner === 'target';
    // Earlier operations' debts: whether they can be paid now does not decide what this operation answers.
    // One slice a flush, and nothing more is tried where something failed.
    if (owed.count > 0 && (result < 0 || this.#rest.count > 0)) {
      this.#owed.addAll(owed);
      this.#stale ||= wasStale;
    } else if (owed.count > 0 && this.#reconcile(owed, !wasStale) < 0 && (this.#stale || !wasStale)) {
      // What fails again is no reason to go on by itself; the rest of it stays as it is, or no device is there.
      this.#owed.addAll(taken(this.#rest));
    }
    if (rest.count > 0 && (result < 0 || this.#rest.count > 0)) this.#rest.addAll(rest);
    else if (rest.count > 0) this.#reconcile(rest, true);
    this.#returning = result < 0 && this.#space.owner === 'target';
    this.counters.merges = this.#now.merges;
    if (this.#stale) this.#devices.expelAll();
    else if (this.#devices.behind) this.#devices.admitAll();
    return result;
  }

  remap(): number {
    for (const { first, last } of this.#space.apertures) this.#changed.add(first, last);
    for (const { first, last } of this.#covered ?? []) this.#changed.add(first, last);
    this.#asker.tolerant = true;
    const result = this.flush();
    this.#asker.tolerant = false;
    return result;
  }

  trackDirty(on: boolean): void {
    this.#error = this.#home.trackDirty(on) ?? this.#error;
  }

  noteWrites(): void {
    this.#now.noteWrites();
  }

  get inexact(): string | null {
    return this.#home.inexact;
  }

  close(): void {
    this.#error = this.#now.close() ?? this.#error;
  }

  #failed(answer: number, error: HostError | null): number {
    this.#error = error;
    if (this.#result === 0) this.#result = answer;
    return answer;
  }

  #hostFailed(answer: number): number {
    return this.#failed(answer, this.#now.error);
  }

  /** Whether a failure ends the reconciliation: a target takes its change back, once; a guest cannot. */
  #givenUp(): boolean {
    return this.#result < 0 && this.#revocable;
  }

  get #revocable(): boolean {
    return this.#space.owner === 'target' && !this.#returning;
  }

  populate(): number {
    if (this.#populated) return 0;
    const covered = this.#coverApertures();
    if (covered < 0) return covered;
    const all = new DirtyRanges();
    for (const { first, last } of this.#space.apertures) all.add(first, last);
    this.counters.flushes++;
    const result = this.#reconcile(all, true);
    this.#populated = result === 0;
    return result;
  }

  /**
   * Each window that the target promised the guest has to be one that the host can map in. A guest's own tables promise nothing:
   * they may reach further than the guest ever maps.
   */
  #coverApertures(): number {
    const wanted = this.#space.apertures;
    if (wanted === this.#covered) return 0;
    const answer = this.#now.hostSpace.cover(wanted);
    if (answer < 0 && this.#space.owner === 'target') return this.#hostFailed(answer);
    this.#covered = wanted;
    return 0;
  }

  /**
   * Makes the hardware agree within the ranges. What could not be done is owed, whether the ranges name it or not, and no more, since every flush
   * tries it again; all of the ranges only where it was given up.
   */
  #reconcile(dirty: DirtyRanges, slice = false): number {
    this.#result = 0;
    dirty.normalize();
    const survey = Survey.by(this.#asker);
    const whole = slice ? survey.takeSlice(dirty, this.#now.held) : survey.take(dirty, this.#now.held);
    this.#rest.addAll(survey.rest);
    if (survey.error !== null) this.#failed(-errno.EFAULT, survey.error);
    if (!whole)
      this.#failed(-errno.ENOSPC, new HostError(this.#space.name, errno.ENOSPC, undefined, 'more mappings than one flush may change'));
    const isShort = this.#result < 0;
    if (!this.#givenUp()) {
      if (hasWriteOnly(survey.lists.additions)) this.#error = this.#home.holdsWriteOnly() ?? this.#error;
      this.#issue(survey);
    }
    if (isShort || this.#givenUp()) this.#owed.addAll(dirty);
    const { removals } = survey.lists;
    for (let i = 0; i < removals.length && this.#result < 0; i++) this.#owe(removals, i);
    survey.end();
    return this.#result;
  }

  #owe(runs: RunList, at: number): void {
    this.#owed.add(runs.iova[at], runs.iova[at] + runs.pages[at] - 1);
  }

  #issue({ splits, lists }: Survey): void {
    if (splits.count > 0) {
      // What a first split leaves over stays whole: its guest may never unmap it in parts. A guest that has come again will.
      this.#remnantGrain = this.#grain;
      this.#grain = Math.min(this.#grain, 2 ** Math.floor(Math.log2(splits.grain)));
      if (Number.isFinite(this.#remnantGrain)) this.#remnantGrain = this.#grain;
      const canSwap = !this.#devices.empty && !this.#stale && this.#result === 0 && this.#now.held.size <= COPY_LIMIT;
      if (canSwap && this.#swap(lists, splits.count)) return;
      this.counters.splits += splits.count;
    }
    this.#unmapRemovals(lists.removals);
    if (this.#givenUp()) return;
    this.#mapRemnants(lists.remnants);
    this.#mapAll(lists.additions, this.#now, this.#grain);
  }

  /**
   * Neighbours that go together, with nothing that stays between them, go in one host call; when it fails, one by one, since
   * some of them may be gone.
   */
  #unmapRemovals(removals: RunList): void {
    const now = this.#now;
    for (let from = 0; from < removals.length; ) {
      const first = removals.iova[from];
      let end = first + removals.pages[from];
      let to = from + 1;
      for (; to < removals.length && now.held.firstOf(now.held.seek(end)) === removals.iova[to]; to++)
        end = removals.iova[to] + removals.pages[to];
      if (to === from + 1 || !now.removeTogether(first, end - first)) {
        for (let i = from; i < to && !this.#givenUp(); i++) this.#unmapOne(removals.iova[i], removals.pages[i]);
      }
      if (this.#givenUp()) return;
      from = to;
    }
  }

  /** What has no way back, a guest's own tables or a state that a target restored: what is still mapped is stale, so no device may use it. */
  #unmapOne(iova: number, pages: number): void {
    const answer = this.#now.remove(iova, pages);
    if (answer === 0) return;
    this.#hostFailed(answer);
    if (this.#revocable) return;
    this.#owed.add(iova, iova + pages - 1);
    this.#stale = true;
    this.#devices.expelAll();
  }

  /**
   * Where the host has no mapping left for all that stays, the smallest parts wait until there is one: the guest's unmap is done, and cannot be
   * refused for what it did not name.
   */
  #mapRemnants(remnants: RunList): void {
    const now = this.#now;
    const order = remnants.length < 2 || now.makeRoom(remnants.length) ? null : largestFirst(remnants);
    for (let at = 0; at < remnants.length && !this.#givenUp(); at++) {
      const i = order?.[at] ?? at;
      const { [i]: iova } = remnants.iova;
      const { [i]: pages } = remnants.pages;
      // Pieces where there is plenty of room for them, or what is kept for other unmaps would go.
      const piece = now.hasPlenty(1 << PIECES_LG2) ? pieceOf(pages, this.#remnantGrain) : Number.POSITIVE_INFINITY;
      for (let done = 0; done < pages && !this.#givenUp(); ) {
        const part = Math.min(pages - done, piece - ((iova + done) % piece));
        const answer = now.restore(iova + done, remnants.gpa[i] + done, part, remnants.permission[i]);
        if (answer === -errno.ENOSPC) {
          this.#owed.add(iova + done, iova + done + part - 1);
          this.#error = this.#noRoom(iova + done, part);
        } else if (answer < 0) this.#hostFailed(answer);
        done += part;
      }
    }
  }

  #noRoom(iova: number, pages: number): HostError {
    const hint = `the host holds ${this.#now.limit} mappings, some of which are kept for what unmaps split`;
    return new HostError(this.#space.name, errno.ENOSPC, { first: iova, last: iova + pages - 1 }, hint);
  }

  /** Maps runs in pieces of at most `grain` pages, aligned to it; a run that would fall into too many pieces in larger ones. */
  #mapAll(runs: RunList, to: HeldSpace, grain: number): void {
    for (let i = 0; i < runs.length; i++) {
      const piece = pieceOf(runs.pages[i], grain);
      for (let done = 0; done < runs.pages[i]; ) {
        const iova = runs.iova[i] + done;
        const pages = Math.min(runs.pages[i] - done, piece - (iova % piece));
        const [gpa, permission] = [runs.gpa[i] + done, runs.permission[i]];
        const answer = this.#returning ? to.restore(iova, gpa, pages, permission) : to.add(iova, gpa, pages, permission);
        if (answer < 0) this.#failed(answer, answer === -errno.ENOSPC ? this.#noRoom(iova, pages) : to.error);
        if (this.#givenUp()) return;
        if (answer < 0) this.#owed.add(iova, iova + pages - 1);
        done += pages;
      }
    }
  }

  /** A split without a gap: a prepared copy of the host space takes the old one's place. False: nothing was done. */
  #swap({ removals, remnants, additions }: DifferenceLists, splits: number): boolean {
    const after = this.#home.copyWithout(removals, remnants);
    if (after === null) return false;
    this.#mapAll(additions, after, this.#grain);
    const { done, error } = this.#result < 0 ? { done: false, error: after.close() } : this.#home.moveTo(after);
    this.#error = error ?? this.#error;
    this.#result = 0;
    if (done) this.counters.splitsWithoutGap += splits;
    return done;
  }
}

function hasWriteOnly({ permission, length }: RunList): boolean {
  for (let i = 0; i < length; i++) if (permission[i] === WRITE) return true;
  return false;
}

/**
 * Pages of the mappings that a run is cut into: of the grain, or where that were too many, of a power of 512 times the grain. So what falls to pieces last
 * is 512 of the grain at once, and a guest that goes through the run finds a split there once in so many unmaps.
 */
function pieceOf(pages: number, grain: number): number {
  if (pages <= grain) return grain;
  const levels = Math.ceil(Math.log2(pages / grain) / PIECES_LG2);
  return grain * 2 ** ((levels - 1) * PIECES_LG2);
}

function largestFirst({ pages, length }: RunList): number[] {
  return Array.from({ length }, (_, i) => i).sort((a, b) => pages[b] - pages[a]);
}

/** What the ranges hold, taken out of them. */
function taken(ranges: DirtyRanges): DirtyRanges {
  const copy = new DirtyRanges();
  copy.addAll(ranges);
  ranges.clear();
  return copy;
}
