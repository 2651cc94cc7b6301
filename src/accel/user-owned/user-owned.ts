import { errno, HostError, hostErrorOf } from '../../host/errno.ts';
import type { HostDevice, InstalledStage, NestingHardware } from '../../host/host.ts';
import { READ, WRITE } from '../../memory/access.ts';
import { PAGE_LG2 } from '../../memory/address.ts';
import { type AddressSpace, NO_PASID } from '../../target/target.ts';
import { Attachments } from '../attachments.ts';
import { DirtyRanges } from '../dirty-ranges.ts';
import { readableToo } from '../left-out.ts';
import { NOWHERE, type Path, type PathContext, type PathCounters, type PathKind } from '../path.ts';
import { RunList } from '../run-list.ts';
import { refuseMemory, refusePasid, refuseQueue, SecondStage } from '../second-stage/second-stage.ts';
import { StagePages } from '../second-stage/table-arena.ts';
import { SliceSize } from '../slice-size.ts';
import { WantedRuns } from '../wanted-runs.ts';
import { inputPages, type WrittenStage, writeStage } from './stage-format.ts';
import { without } from './table-difference.ts';

/** Runs of one flush. */
const RUN_LIMIT = 1 << 20;
/** Table entries that one slice stores, about 50 ns each. */
const slices = new SliceSize(1 << 18);
/** Pages of the smallest large leaf. */
const LARGE = 512;

/** First-stage tables in the hardware's format, written by us: a map is stores, an unmap stores and one invalidation. */
export const userOwned = kindOf('user-owned', false);

/** The same, and the invalidation is stores as well: nothing that the guest does is a host call. */
export const userOwnedQueue = kindOf('user-owned-queue', true);

function kindOf(name: string, queue: boolean): PathKind {
  return {
    name,
    readsGuestTables: false,
    refuse: (context) => refuse(context) ?? (queue ? refuseQueue(context) : null),
    pasidsOf: ({ host, device }) => ((host!.nesting!.hardwareOf(device!) as NestingHardware).pasidStages ? 'own' : 'none'),
    create: (context) => new UserOwnedPath(name, context, queue),
  };
}

function refuse(context: PathContext): string | null {
  const { space, host, device, pasid = NO_PASID } = context;
  if (space === NOWHERE) return 'nothing is reached';
  if (host === null) return 'the endpoint has no host device';
  if (host.nesting === undefined || device === undefined) return `${host.kind} takes no first stages`;
  const hardware = host.nesting.hardwareOf(device);
  if (typeof hardware === 'string') return hardware;
  if (pasid !== NO_PASID && !hardware.pasidStages) return refusePasid(hardware);
  const rom = refuseMemory(context, hardware);
  if (rom !== null) return rom;
  const pages = inputPages(hardware);
  const beyond = space.owner === 'target' && space.apertures.some(({ last }) => last >= pages);
  return beyond ? `${space.name} reaches beyond the 2^${Math.log2(pages) + PAGE_LG2} bytes of the hardware's first stage` : null;
}

/** Where x86 devices write for interrupts: no table is asked (VT-d 4.1, 3.14; 48882, 2.1.4), and the kernel reserves it in tables of its own. */
const INTERRUPTS = { first: 0xfee00, last: 0xfeeff } as const;

/**
 * The tables are what is remembered: what they hold in a dirty range is compared with what the guest means, page by page. Removals are
 * stored, then the hardware forgets, then additions are stored: an entry never goes from one valid value to another unseen (Arm's
 * break-before-make), and pages that stay are never touched.
 */
class UserOwnedPath implements Path {
  readonly name: string;
  readonly counters: PathCounters = { flushes: 0, splits: 0, splitsWithoutGap: 0, merges: 0 };
  readonly #space: AddressSpace;
  readonly #second: SecondStage;
  readonly #pages: StagePages;
  readonly #written: WrittenStage;
  readonly #installed: InstalledStage;
  readonly #devices: Attachments;
  readonly #runs = { held: new RunList(RUN_LIMIT), wanted: new RunList(RUN_LIMIT) };
  readonly #wanted: WantedRuns;
  readonly #changed = new DirtyRanges();
  /** What earlier flushes could not do, or did not come to. */
  readonly #owed = new DirtyRanges();
  readonly #rest = new DirtyRanges();
  readonly #limit: number;
  readonly #liveSplit: boolean;
  readonly #isX86: boolean;
  /** The apertures that the first stage covers. */
  #reached: AddressSpace['apertures'] | null = null;
  #populated = false;
  /** Some page is, or was, for writing only, which no first stage has. */
  #isReadable = false;
  /** The hardware may remember what is no longer in the tables; a guest that owns its mappings has no device on it meanwhile. */
  #stale = false;
  #asid = 0;
  #error: HostError | null = null;

  constructor(name: string, { space, memory, host, device, pageRequests }: PathContext, queue: boolean) {
    this.name = name;
    const hardware = host!.nesting!.hardwareOf(device!) as NestingHardware;
    this.#space = space;
    this.#limit = inputPages(hardware);
    this.#liveSplit = hardware.liveSplit;
    this.#isX86 = hardware.kind !== 'smmuv3';
    this.#wanted = new WantedRuns({ space, memory, tolerant: false, cuts: true, workOf: this.#storesFor });
    this.#second = SecondStage.join(host!, memory, device!, hardware, { tables: 'ours', queue });
    this.#pages = new StagePages(this.#second.arena);
    try {
      this.#asid = this.#takeAsid(hardware);
      const written = writeStage(hardware, this.#second.arena.memory, this.#pages, this.#asid);
      if (written === null) throw new HostError(space.name, errno.ENOMEM, undefined, 'no memory for tables');
      this.#written = written;
      this.#installed = this.#second.parent.install(device!, written.stage, pageRequests && { pageRequests });
    } catch (error) {
      this.#pages.release();
      this.#second.asids.free(this.#asid);
      this.#second.leave();
      throw error;
    }
    this.#devices = new Attachments(this.#installed);
  }

  /** What the hardware remembers of a stage that had the ASID before is forgotten by the first flush. @throws HostError */
  #takeAsid({ asidBits }: NestingHardware): number {
    if (asidBits === 0) return 0;
    const taken = this.#second.asids.take();
    if (taken === null)
      throw new HostError(this.#space.name, errno.ENOSPC, undefined, `the hardware has no more than ${2 ** asidBits - 1} ASIDs`);
    this.#stale = taken.isUsed;
    return taken.asid;
  }

  get error(): HostError | null {
    return this.#error;
  }

  get leftOut(): readonly string[] {
    const { leftOut, parent } = this.#second;
    return this.#isReadable ? [...leftOut, readableToo(`first stages of ${parent.hardware.kind} have no such`)] : leftOut;
  }

  get pending(): boolean {
    return this.#changed.count > 0 || this.#owed.count > 0 || this.#rest.count > 0 || this.#stale || this.#devices.behind;
  }

  get unfinished(): boolean {
    return this.#rest.count > 0;
  }

  attach(device: HostDevice): number {
    const populated = this.populate();
    if (populated < 0) return populated;
    if (this.#stale && this.#space.owner === 'guest') {
      this.#devices.await(device);
      return 0;
    }
    const result = this.#devices.admit(device);
    this.#second.attached(device, result);
    return this.#answered(result);
  }

  detach(device: HostDevice): number {
    return this.#answered(this.#devices.expel(device));
  }

  moved(device: HostDevice): void {
    this.#devices.forget(device);
  }

  changed(first: number, last: number): void {
    this.#changed.add(first, last);
  }

  remap(): number {
    const followed = this.#answered(this.#second.follow(), this.#second.parent.space.error);
    if (followed < 0) return followed;
    for (const { first, last } of this.#space.apertures) this.#changed.add(first, last);
    this.#wanted.asker.tolerant = true;
    const result = this.flush();
    this.#wanted.asker.tolerant = false;
    return result;
  }

  trackDirty(on: boolean): void {
    this.#second.trackDirty(on);
  }

  noteWrites(): void {
    this.#second.noteWrites();
  }

  get inexact(): string | null {
    return this.#second.inexact;
  }

  flush(): number {
    if (!this.pending) return 0;
    this.counters.flushes++;
    const stale = this.#forgetStale();
    if (stale < 0) {
      this.#owed.addAll(this.#changed);
      this.#changed.clear();
      return stale;
    }
    const [owed, rest] = [this.#owed, this.#rest].map(taken);
    const reached = this.#reachApertures();
    if (reached < 0) this.#owed.addAll(this.#changed);
    const result = reached < 0 || this.#changed.count === 0 ? reached : this.#reconcile(this.#changed);
    this.#changed.clear();
    if (result < 0 || this.#rest.count > 0) this.#owed.addAll(owed);
    // What fails again is no reason to go on by itself; the rest of it stays as it is.
    else if (this.#reconcileSlice(owed) < 0) this.#owed.addAll(taken(this.#rest));
    if (result < 0 || this.#rest.count > 0) this.#rest.addAll(rest);
    else this.#reconcileSlice(rest);
    if (!this.#stale && this.#devices.behind) this.#devices.admitAll();
    return result;
  }

  close(): void {
    try {
      this.#installed.close();
      this.#pages.release();
      this.#second.asids.free(this.#asid);
    } catch (caught) {
      const error = hostErrorOf(caught);
      this.#error = error;
    }
    this.#error = this.#second.leave() ?? this.#error;
  }

  #answered(answer: number, error = this.#installed.error): number {
    if (answer < 0) this.#error = error;
    return answer;
  }

  /** A window that the target promised its guest has to be one that the first stage covers: it is refused now, not at its first mapping. */
  #reachApertures(): number {
    const wanted = this.#space.apertures;
    if (wanted === this.#reached || this.#space.owner === 'guest') return 0;
    const outside = wanted.find(({ last }) => last >= this.#limit);
    if (outside !== undefined) {
      const hint = "wider than the hardware's first stage";
      return this.#answered(-errno.ERANGE, new HostError(this.#space.name, errno.ERANGE, outside, hint));
    }
    this.#reached = wanted;
    return 0;
  }

  populate(): number {
    if (this.#populated) return 0;
    const all = new DirtyRanges();
    for (const { first, last } of this.#space.apertures) all.add(first, last);
    this.counters.flushes++;
    const result = this.#forgetStale() || this.#reachApertures() || this.#reconcileSlice(all);
    this.#populated = result === 0;
    return result;
  }

  /** Makes the tables and the hardware agree within the ranges; what cannot be done is owed. Returns 0 or a negative errno. */
  #reconcile(dirty: DirtyRanges): number {
    dirty.normalize();
    return this.#agree(dirty, this.#survey(dirty));
  }

  /** The same for ranges that nothing stale is in: as much of them as one look comes to; the rest stays as it is. */
  #reconcileSlice(ranges: DirtyRanges): number {
    if (ranges.count === 0) return 0;
    ranges.normalize();
    const examined = new DirtyRanges();
    this.#begin(slices.now);
    for (let i = 0; i < ranges.count; i++) {
      const [first, last] = [ranges.first(i), ranges.last(i)];
      const end = this.#rest.count > 0 ? first : this.#written.table.enumerate(first, last, this.#visitHeld, Number.POSITIVE_INFINITY);
      const next = end === first ? first : this.#wanted.ask(first, end - 1);
      this.#runs.held.cut(next);
      if (next > first) examined.add(first, next - 1);
      if (next <= last) this.#rest.add(next, last);
    }
    if (this.#rest.count > 0) slices.grow();
    return this.#agree(examined, this.#surveyed());
  }

  #agree(examined: DirtyRanges, surveyed: number): number {
    const result = surveyed || this.#remove() || this.#add();
    if (result < 0) this.#owed.addAll(examined);
    return result;
  }

  #begin(most: number): void {
    this.#runs.held.clear();
    this.#wanted.most = most;
    this.#wanted.begin(this.#runs.wanted);
  }

  #survey(dirty: DirtyRanges): number {
    this.#begin(Number.POSITIVE_INFINITY);
    for (let i = 0; i < dirty.count; i++) {
      const [first, last] = [dirty.first(i), dirty.last(i)];
      const end = this.#written.table.enumerate(first, last, this.#visitHeld, Number.POSITIVE_INFINITY);
      // Of what was too much nothing is asked in this slice, and until it is nothing of it is mapped.
      const next = this.#rest.count > 0 ? first : this.#wanted.ask(first, end - 1);
      if (next <= last) this.#rest.add(next, last);
      if (end <= last && !this.#visitRemoval(end, 0, last - end + 1)) return this.#noMemory();
    }
    return this.#surveyed();
  }

  #surveyed(): number {
    const { wanted } = this.#runs;
    const error = this.#wanted.error ?? this.#unreachable();
    if (error !== null) return this.#answered(-error.errno, error);
    for (let i = 0; i < wanted.length; i++) {
      if (wanted.permission[i] !== WRITE) continue;
      wanted.permission[i] = READ | WRITE;
      this.#isReadable = true;
    }
    return 0;
  }

  /** A mapping that the target answers for and that no access would ever reach is refused; a guest's own tables may hold anything. */
  #unreachable(): HostError | null {
    if (!this.#isX86 || this.#space.owner === 'guest') return null;
    const { iova, pages, length } = this.#runs.wanted;
    for (let i = 0; i < length; i++) {
      const range = { first: Math.max(iova[i], INTERRUPTS.first), last: Math.min(iova[i] + pages[i] - 1, INTERRUPTS.last) };
      if (range.first <= range.last) return new HostError(this.#space.name, errno.ERANGE, range, 'devices write there for interrupts');
    }
    return null;
  }

  #remove(): number {
    const { held, wanted } = this.#runs;
    const whole = without(held, wanted, this.#visitRemoval);
    const result = this.#sync();
    if (whole || result < 0) return result;
    // A large page cannot be split for want of memory: what its owner has unmapped already must not be reached.
    this.#distrust();
    return this.#noMemory();
  }

  #add(): number {
    const { held, wanted } = this.#runs;
    return without(wanted, held, this.#visitAddition) ? 0 : this.#noMemory();
  }

  #forgetStale(): number {
    if (!this.#stale) return 0;
    this.#installed.invalidateAll();
    return this.#sync();
  }

  /** The hardware forgets what was removed, and the tables that are gone with it can be used again. */
  #sync(): number {
    const result = this.#installed.sync();
    if (result < 0) {
      // Detaching devices has an answer of its own, which would take this one's place.
      this.#answered(result);
      this.#distrust();
      return result;
    }
    this.#stale = false;
    this.#pages.reclaim();
    return 0;
  }

  #distrust(): void {
    this.#stale = true;
    if (this.#space.owner === 'guest') this.#devices.expelAll();
  }

  #noMemory(): number {
    return this.#answered(-errno.ENOMEM, new HostError(this.#space.name, errno.ENOMEM, undefined, 'no room in the tables'));
  }

  /** Entries that a run takes: large leaves but for its ends, where it lies in memory as in the tables. */
  readonly #storesFor = (pages: number, iova: number, gpa: number): number =>
    this.#liveSplit && (iova - gpa) % LARGE === 0 ? Math.min(pages, Math.ceil(pages / LARGE) + 2 * LARGE) : pages;

  readonly #visitHeld = (iova: number, gpa: number, pages: number, permission: number): boolean =>
    this.#runs.held.push(iova, gpa, pages, permission & (READ | WRITE));

  readonly #visitRemoval = (iova: number, _gpa: number, pages: number): boolean => {
    if (this.#written.table.unmap(iova, pages) < 0) return false;
    this.#installed.invalidate(iova, pages);
    return true;
  };

  readonly #visitAddition = (iova: number, gpa: number, pages: number, permission: number): boolean => {
    const { table } = this.#written;
    if (iova + pages > this.#limit) return false;
    if (this.#liveSplit) return table.map(iova, gpa, pages, permission) === pages;
    for (let i = 0; i < pages; i++) if (table.map(iova + i, gpa + i, 1, permission) !== 1) return false;
    return true;
  };
}

/** What the ranges hold, taken out of them. */
function taken(ranges: DirtyRanges): DirtyRanges {
  const copy = new DirtyRanges();
  copy.addAll(ranges);
  ranges.clear();
  return copy;
}
