import { errno, HostError } from '../host/errno.ts';
import type { Host, HostDevice, SpaceRequirements } from '../host/host.ts';
import { MMIO, READ_WRITE } from '../memory/access.ts';
import type { GuestMemory } from '../memory/guest-memory.ts';
import { IntervalMap } from '../memory/interval-map.ts';
import type { AddressSpace } from '../target/target.ts';
import { type DifferenceLists, difference } from './difference.ts';
import { DirtyRanges } from './dirty-ranges.ts';
import type { Path, PathCounters, PathKind } from './path.ts';
import { RunList } from './run-list.ts';
import { closeSpace, copySpace, type HeldSpace } from './space-copy.ts';

/** Host mappings of one address space, and runs in one flush. What a flush cannot take within it answers -ENOSPC. */
const MAPPING_LIMIT = 1 << 20;

/** Host mappings that one run is cut into at most, however small the guest's unmaps are: as many as one hypercall maps pages. */
const PIECES_PER_RUN = 512;

/** The path that any host serves: host mappings that follow what the guest means, one DMA_MAP a coalesced run. */
export const shadow: PathKind = {
  name: 'shadow',
  refuse: ({ host }) => (host === null ? 'the endpoint has no host device' : null),
  create: ({ space, memory, host }) => new ShadowPath(space, memory, host!),
};

/**
 * Holds what the hardware has (one interval a host mapping, to guest pages), asks the address space what it should have, and
 * issues the difference. Written down call by call, so what it holds is true whichever call fails.
 */
class ShadowPath implements Path {
  readonly name = 'shadow';
  readonly counters: PathCounters = { flushes: 0, splits: 0, splitsWithoutGap: 0 };
  readonly #space: AddressSpace;
  readonly #memory: GuestMemory;
  readonly #host: Host;
  readonly #requirements: SpaceRequirements;
  /** Devices whose requests reach the address space, and those of them that the host has attached. */
  readonly #devices = new Set<HostDevice>();
  readonly #attached = new Set<HostDevice>();
  #now: HeldSpace;
  readonly #changed = new DirtyRanges();
  /** What earlier flushes could not do. */
  readonly #owed = new DirtyRanges();
  readonly #lists: DifferenceLists = {
    held: new RunList(MAPPING_LIMIT),
    wanted: new RunList(MAPPING_LIMIT),
    removals: new RunList(MAPPING_LIMIT),
    remnants: new RunList(MAPPING_LIMIT),
    additions: new RunList(MAPPING_LIMIT),
    kept: new RunList(MAPPING_LIMIT),
  };
  readonly #splits = { count: 0, grain: Number.POSITIVE_INFINITY };
  /** Largest size, and alignment, of a new mapping in pages: after a split, what the guest unmaps at once. */
  #grain = Number.POSITIVE_INFINITY;
  /** The apertures that the host covers. */
  #covered: AddressSpace['apertures'] | null = null;
  #populated = false;
  /** The host still maps what a guest has taken out of its own tables: until that is gone, no device is attached. */
  #stale = false;
  /** First errno of the reconciliation under way. */
  #result = 0;
  #error: HostError | null = null;

  constructor(space: AddressSpace, memory: GuestMemory, host: Host) {
    this.#space = space;
    this.#memory = memory;
    this.#host = host;
    this.#requirements = { granuleLg2: space.granuleLg2 };
    this.#now = { hostSpace: host.createSpace(this.#requirements), held: new IntervalMap(MAPPING_LIMIT) };
  }

  get error(): HostError | null {
    return this.#error;
  }

  attach(device: HostDevice): number {
    let result = this.#populated ? 0 : this.#populate();
    // Before, so that a host with windows has them when the mappings come in; afterwards, because devices narrow what a host can map.
    if (result === 0) result = this.#coverApertures();
    if (result < 0) return result;
    result = this.#stale ? 0 : this.#admit(device);
    if (result < 0) return result;
    this.#devices.add(device);
    this.#covered = null;
    result = this.#coverApertures();
    if (result < 0) this.detach(device);
    return result;
  }

  detach(device: HostDevice): number {
    const result = this.#expel(device);
    if (result === 0) this.#devices.delete(device);
    return result;
  }

  moved(device: HostDevice): void {
    this.#devices.delete(device);
    this.#attached.delete(device);
  }

  changed(first: number, last: number): void {
    this.#changed.add(first, last);
  }

  flush(): number {
    if (this.#changed.count === 0 && this.#owed.count === 0 && this.#attached.size === this.#devices.size) return 0;
    this.counters.flushes++;
    const covered = this.#coverApertures();
    const result = covered < 0 ? covered : this.#reconcile(this.#changed);
    if (result < 0) this.#owed.addAll(this.#changed);
    // An earlier operation's debt: whether it can be paid now does not decide what this operation answers.
    else if (this.#owed.count > 0 && this.#reconcile(this.#owed) === 0) this.#owed.clear();
    this.#changed.clear();
    if (this.#owed.count === 0) this.#stale = false;
    for (const device of this.#devices) {
      if (this.#stale) this.#expel(device);
      else this.#admit(device);
    }
    return result;
  }

  close(): void {
    this.#error = closeSpace(this.#now.hostSpace) ?? this.#error;
  }

  #failed(answer: number, error: HostError | null): number {
    this.#error = error;
    if (this.#result === 0) this.#result = answer;
    return answer;
  }

  /** Attaches a device that is not attached. Returns 0 or a negative errno. */
  #admit(device: HostDevice): number {
    const answer = this.#attached.has(device) ? 0 : this.#now.hostSpace.attach(device);
    if (answer < 0) return this.#hostFailed(answer);
    this.#attached.add(device);
    return 0;
  }

  /** Detaches a device that is attached. Returns 0 or a negative errno. */
  #expel(device: HostDevice): number {
    const answer = this.#attached.has(device) ? this.#now.hostSpace.detach(device) : 0;
    if (answer < 0) return this.#hostFailed(answer);
    this.#attached.delete(device);
    return 0;
  }

  #hostFailed(answer: number): number {
    return this.#failed(answer, this.#now.hostSpace.error);
  }

  /** Whether a failure ends the reconciliation: a target takes its change back, a guest cannot. */
  #givenUp(): boolean {
    return this.#result < 0 && this.#space.owner === 'target';
  }

  #populate(): number {
    for (const { first, last } of this.#space.apertures) this.#changed.add(first, last);
    const result = this.flush();
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

  #reconcile(dirty: DirtyRanges): number {
    const lists = this.#lists;
    this.#result = 0;
    dirty.normalize();
    const whole = this.#collect(dirty);
    if (this.#givenUp()) return this.#result;
    if (!difference(dirty, lists, this.#splits) || !whole) {
      this.#failed(
        -errno.ENOSPC,
        new HostError(this.#space.name, errno.ENOSPC, undefined, 'more runs or table entries than one flush may read'),
      );
      if (this.#givenUp()) return this.#result;
    }
    if (this.#splits.count > 0) {
      this.#grain = Math.min(this.#grain, 2 ** Math.floor(Math.log2(this.#splits.grain)));
      if (this.#attached.size > 0 && !this.#stale && this.#result === 0 && this.#swap()) return 0;
      this.counters.splits += this.#splits.count;
    }
    this.#unmapRemovals();
    if (this.#givenUp()) return this.#result;
    // What stays stays whole: its guest may never unmap it in parts.
    this.#mapAll(lists.remnants, this.#now, Number.POSITIVE_INFINITY);
    this.#mapAll(lists.additions, this.#now, this.#grain);
    return this.#result;
  }

  /** Fills `held` and `wanted`; false when the space has more to say than a flush can take. */
  #collect(dirty: DirtyRanges): boolean {
    const { held, wanted } = this.#lists;
    held.clear();
    wanted.clear();
    let whole = true;
    for (let i = 0; i < dirty.count; i++) {
      this.#now.held.intervals(dirty.first(i), dirty.last(i), this.#visitHeld);
      // Behind the first range that was too much nothing is asked: a guest's loops cost one bound a flush, and what it has there is unmapped.
      if (whole && this.#space.enumerate(dirty.first(i), dirty.last(i), this.#visitWanted) <= dirty.last(i)) whole = false;
    }
    return whole;
  }

  readonly #visitHeld = (iova: number, gpa: number, pages: number, permission: number): boolean => {
    const { held } = this.#lists;
    // One mapping can touch several dirty ranges.
    if (held.length > 0 && held.iova[held.length - 1] === iova) return true;
    return held.push(iova, gpa, pages, permission);
  };

  /** Cuts a run where host memory is not contiguous. What is no RAM has no host page: registers of devices are left out, anything else is an error. */
  readonly #visitWanted = (iova: number, gpa: number, pages: number, permission: number): boolean => {
    if ((permission & READ_WRITE) === 0) return true;
    for (let done = 0; done < pages; ) {
      const run = this.#memory.hostRun(gpa + done, pages - done);
      if (run > 0) {
        if (!this.#lists.wanted.push(iova + done, gpa + done, run, permission & READ_WRITE)) return false;
        done += run;
        continue;
      }
      if ((permission & MMIO) === 0 && this.#space.owner === 'target') {
        const range = { first: iova + done, last: iova + pages - 1 };
        this.#failed(-errno.EFAULT, new HostError(this.#space.name, errno.EFAULT, range, 'leads outside guest RAM'));
      }
      const next = this.#memory.nextHostPage(gpa + done);
      if (next < 0 || next >= gpa + pages) return true;
      done = next - gpa;
    }
    return true;
  };

  /**
   * Neighbours that go together, with nothing that stays between them, go in one host call; when it fails, one by one, since
   * some of them may be gone.
   */
  #unmapRemovals(): void {
    const { removals } = this.#lists;
    const { held, hostSpace } = this.#now;
    for (let from = 0; from < removals.length; ) {
      const first = removals.iova[from];
      let end = first + removals.pages[from];
      let to = from + 1;
      for (; to < removals.length && held.firstOf(held.seek(end)) === removals.iova[to]; to++) end = removals.iova[to] + removals.pages[to];
      if (to > from + 1 && hostSpace.unmap(first, end - first) === 0) held.remove(first, end - first);
      else for (; from < to && !this.#givenUp(); from++) this.#unmapOne(removals.iova[from], removals.pages[from]);
      if (this.#givenUp()) return;
      from = to;
    }
  }

  #unmapOne(iova: number, pages: number): void {
    const answer = this.#now.hostSpace.unmap(iova, pages);
    // What the kernel does not have is gone, and that was wanted.
    if (answer === 0 || answer === -errno.ENOENT) this.#now.held.remove(iova, pages);
    else this.#unmapFailed(answer);
  }

  /** A guest that owns its tables has unmapped already: what is still mapped is stale, so no device may use it. */
  #unmapFailed(answer: number): void {
    this.#hostFailed(answer);
    if (this.#space.owner === 'target') return;
    this.#stale = true;
    for (const device of this.#devices) this.#expel(device);
  }

  /** Maps runs in pieces of at most `grain` pages, aligned to it; a run that would fall into too many pieces in larger ones. */
  #mapAll(runs: RunList, to: HeldSpace, grain: number): void {
    for (let i = 0; i < runs.length; i++) {
      const piece = Math.max(grain, 2 ** Math.ceil(Math.log2(runs.pages[i] / PIECES_PER_RUN)));
      for (let done = 0; done < runs.pages[i]; ) {
        const iova = runs.iova[i] + done;
        const pages = Math.min(runs.pages[i] - done, piece - (iova % piece));
        this.#mapOne(iova, runs.gpa[i] + done, pages, runs.permission[i], to);
        if (this.#givenUp()) return;
        done += pages;
      }
    }
  }

  #mapOne(iova: number, gpa: number, pages: number, permission: number, { hostSpace, held }: HeldSpace): void {
    if (held.size === held.limit) {
      this.#failed(
        -errno.ENOSPC,
        new HostError(this.#space.name, errno.ENOSPC, { first: iova, last: iova + pages - 1 }, 'too many mappings'),
      );
      return;
    }
    const answer = hostSpace.map(iova, this.#memory.hostPfn(gpa), pages, permission);
    if (answer === 0) held.insert(iova, pages, gpa, permission);
    else this.#failed(answer, hostSpace.error);
  }

  /** A split without a gap: a prepared copy of the host space takes the old one's place. False: nothing was done. */
  #swap(): boolean {
    const { removals, remnants, additions } = this.#lists;
    const before = this.#now;
    const after = copySpace(this.#host, this.#requirements, before, removals, remnants);
    if (after === null) return false;
    this.#mapAll(additions, after, this.#grain);
    const moved: HostDevice[] = [];
    for (const device of this.#attached) {
      if (this.#result === 0 && after.hostSpace.attach(device) < 0) this.#result = -errno.EBUSY;
      if (this.#result === 0) moved.push(device);
    }
    if (this.#result < 0) {
      for (const device of moved) this.#moveBack(device, before, after);
      closeSpace(after.hostSpace);
      this.#result = 0;
      return false;
    }
    this.#now = after;
    this.counters.splitsWithoutGap += this.#splits.count;
    this.#error = closeSpace(before.hostSpace) ?? this.#error;
    return true;
  }

  /** A device that cannot go back is blocked, and every later flush tries again. */
  #moveBack(device: HostDevice, before: HeldSpace, after: HeldSpace): void {
    if (before.hostSpace.attach(device) === 0) return;
    after.hostSpace.detach(device);
    this.#attached.delete(device);
  }
}
