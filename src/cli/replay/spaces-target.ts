import { HI, hiOfPfn, LO, loOfPfn, PFN_LIMIT, pfnOfHiLo } from '../../memory/address.ts';
import type { GuestMemory } from '../../memory/guest-memory.ts';
import { INTERVAL_FULL, INTERVAL_OVERLAP, IntervalMap } from '../../memory/interval-map.ts';
import { FAULT_NOT_PRESENT, FAULT_PERMISSION, faultCode } from '../../pagetable/page-table.ts';
import { type AddressSpace, NO_PASID, type PfnRange, type RunVisitor, type Target, type TargetObserver } from '../../target/target.ts';

/** Runs that one recorded space may have. */
const RUNS = 2 ** 24;
const NOT_PRESENT = faultCode(FAULT_NOT_PRESENT, 0);
const REFUSED = faultCode(FAULT_PERMISSION, 0);

/** What a recorded space means at this point of the recording. Its guest announces: every change is a line. */
export class RecordedSpace implements AddressSpace {
  name = '';
  owner: AddressSpace['owner'] = 'target';
  readonly announced = true;
  granuleLg2 = 12;
  apertures: readonly PfnRange[] = [];
  readonly #runs = new IntervalMap(RUNS);

  /** [first, last] means these runs from now on: iova, gpa, pages and permission of each. @throws RangeError for what are none, or too many */
  replace(first: number, last: number, runs: readonly number[]): void {
    if (first < 0 || last < first || last >= PFN_LIMIT) throw new RangeError(`${first} to ${last} is no range of pages`);
    if (this.#runs.remove(first, last + 1 - first) === INTERVAL_FULL) throw new RangeError('the space has too many runs');
    for (let i = 0; i < runs.length; i += 4) {
      if (runs[i + 1]! + runs[i + 2]! > PFN_LIMIT) throw new RangeError('a run leaves the guest-physical addresses');
      if (runs[i]! < first || runs[i]! + runs[i + 2]! - 1 > last) throw new RangeError('a run leaves the range that changed');
      const slot = this.#runs.insert(runs[i]!, runs[i + 2]!, runs[i + 1]!, runs[i + 3]!);
      if (slot === INTERVAL_OVERLAP) throw new RangeError('a run overlaps another');
      if (slot === INTERVAL_FULL) throw new RangeError('the space has too many runs');
    }
  }

  enumerate(first: number, last: number, visit: RunVisitor): number {
    return this.#runs.runs(first, last, visit);
  }

  /** The page that a page reaches, or what a walk of tables would answer. */
  translate(pfn: number, access: number): number {
    const slot = this.#runs.lookup(pfn);
    if (slot < 0) return NOT_PRESENT;
    if ((this.#runs.permissionOf(slot) & access) !== access) return REFUSED;
    return this.#runs.valueOf(slot) + (pfn - this.#runs.firstOf(slot));
  }
}

/** A target whose guest's operations are recorded by what they came to: it has spaces, and no registers, queues or faults of its own. */
export class SpacesTarget implements Target {
  readonly name = 'spaces';
  readonly memory: GuestMemory;
  readonly translated = new Int32Array(2);
  readonly #reached = new Map<string, RecordedSpace>();
  #observer: TargetObserver | null = null;

  constructor(memory: GuestMemory) {
    this.memory = memory;
  }

  observe(observer: TargetObserver): () => void {
    if (this.#observer !== null) throw new TypeError('SpacesTarget: it is observed');
    this.#observer = observer;
    return () => {
      this.#observer = null;
    };
  }

  spaceOf(endpoint: number, pasid = NO_PASID): RecordedSpace | null {
    return this.#reached.get(keyOf(endpoint, pasid)) ?? null;
  }

  /** 0, or the host's negative errno: where the target keeps the mappings, the endpoint stands where it stood. */
  attach(endpoint: number, pasid: number, space: RecordedSpace | null): number {
    const result = (pasid === NO_PASID ? this.#observer?.attach(endpoint, space) : this.#observer?.attach(endpoint, space, pasid)) ?? 0;
    if (result < 0 && space?.owner === 'target') return result;
    if (space === null) this.#reached.delete(keyOf(endpoint, pasid));
    else this.#reached.set(keyOf(endpoint, pasid), space);
    return result;
  }

  changed(space: RecordedSpace, first: number, last: number): void {
    this.#observer?.changed(space, first, last);
  }

  flush(): number {
    return this.#observer?.flush() ?? 0;
  }

  translate(endpoint: number, pasid: number, hi: number, lo: number, access: number): number {
    const page = this.spaceOf(endpoint, pasid)?.translate(pfnOfHiLo(hi, lo), access) ?? NOT_PRESENT;
    if (page < 0) return page;
    this.translated[LO] = loOfPfn(page) | (lo & 0xfff);
    this.translated[HI] = hiOfPfn(page);
    return 12;
  }

  /** All of it is the recording's: at power-on nothing has been said. */
  reset(): void {
    for (const key of this.#reached.keys()) {
      const [endpoint, pasid] = key.split('/').map(Number);
      this.attach(endpoint!, pasid!, null);
    }
  }

  /** @throws TypeError always: the recording is the state. */
  save(): never {
    throw new TypeError('SpacesTarget: a recording is replayed from its beginning');
  }

  load(): never {
    throw new TypeError('SpacesTarget: a recording is replayed from its beginning');
  }
}

function keyOf(endpoint: number, pasid: number): string {
  return `${endpoint}/${pasid}`;
}
