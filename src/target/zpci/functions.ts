import type { GuestMemory } from '../../memory/guest-memory.ts';
import { Iotlb } from '../../memory/iotlb.ts';
import { get, isSet } from '../fields.ts';
import type { TargetObserver } from '../target.ts';
import { STATE, ZpciFunction } from './function.ts';
import { FunctionSpace } from './function-space.ts';
import type { ZpciIommuOptions } from './options.ts';
import { type FunctionTranslation, type Registration, RelaxedSpace, TableSpace } from './spaces.ts';
import { DESIGNATION, IOTA } from './spec/anchor.ts';

const INDEX_MASK = 0xffff;
/** Of `designations`: segment tables. */
const FIRST_DESIGNATION = 0x80;
/** Runs that a registration maps at once at most; more than that a new space is filled with in slices (docs/architecture.md). */
const RUNS_AT_ONCE = 1 << 13;

/** All functions, what each of them reaches, and what the observer knows of it. */
export class Functions {
  readonly all: readonly ZpciFunction[];
  readonly iotlb: Iotlb;
  observer: TargetObserver | null = null;
  readonly #options: ZpciIommuOptions;
  readonly #byFid = new Map<number, ZpciFunction>();
  readonly #byIndex = new Map<number, ZpciFunction>();

  constructor(options: ZpciIommuOptions) {
    this.#options = options;
    this.iotlb = new Iotlb(options.iotlbEntries ?? 65536);
    this.all = options.functions.map((one, index) => new ZpciFunction(one, index));
    for (const one of this.all) {
      this.#byFid.set(one.fid, one);
      this.#byIndex.set(one.handleBase & INDEX_MASK, one);
    }
  }

  byFid(fid: number): ZpciFunction | null {
    return this.#byFid.get(fid) ?? null;
  }

  /** The function whose handle this is, as it stands now. */
  byHandle(handle: number): ZpciFunction | null {
    const found = this.byIndex(handle);
    return found?.handle === handle ? found : null;
  }

  /** The function that a handle of whatever state belongs to. */
  byIndex(handle: number): ZpciFunction | null {
    return this.#byIndex.get(handle & INDEX_MASK) ?? null;
  }

  get memory(): GuestMemory {
    return this.#options.memory;
  }

  /** Whether the function may be registered with these values (QEMU: reg_ioat). */
  allows({ aperture }: ZpciFunction, { pba, pal, iota }: Registration): boolean {
    const words = Int32Array.of(Number(BigInt.asIntN(32, iota)));
    if (pba > pal || pba < aperture.start || pal > aperture.last) return false;
    if (!isSet(words, IOTA.T)) return this.#options.relaxedTranslation ?? false;
    const type = get(words, IOTA.DT);
    return type <= DESIGNATION.regionFirst && ((this.#options.designations ?? 0xf0) & (FIRST_DESIGNATION >> type)) !== 0;
  }

  /** Registers, or with null unregisters, a translation. Returns 0, or the observer's negative errno: then none is registered. */
  register(one: ZpciFunction, registration: Registration | null): number {
    const fills = one.translation === null && one.attached === one.space && registration !== null;
    const result = fills ? this.#fill(one, registration) : this.#replace(one, registration);
    if (result < 0 && registration !== null) this.#replace(one, null);
    return result;
  }

  /** The empty space that the hardware has gets what is registered, if that is not too much for one flush. */
  #fill(one: ZpciFunction, registration: Registration): number {
    const translation = this.#translationOf(one, registration);
    if (!fitsAtOnce(translation)) return this.#replace(one, registration);
    one.registration = registration;
    one.space.register(translation);
    this.observer?.changed(one.space, translation.first, translation.last);
    return this.observer?.flush() ?? 0;
  }

  #replace(one: ZpciFunction, registration: Registration | null): number {
    this.place(one, registration);
    return this.settle(one);
  }

  /** Another space for the function; the observer is not told. */
  place(one: ZpciFunction, registration: Registration | null): void {
    one.registration = registration;
    one.space = new FunctionSpace(one.fid);
    if (registration !== null) one.space.register(this.#translationOf(one, registration));
    this.iotlb.invalidateSpace(one.index);
  }

  #translationOf(one: ZpciFunction, registration: Registration): FunctionTranslation {
    const words = Int32Array.of(Number(BigInt.asIntN(32, registration.iota)));
    if (isSet(words, IOTA.T)) return new TableSpace(one.fid, registration, this.memory);
    return new RelaxedSpace(one.fid, registration, Number(one.aperture.start / 4096n), this.memory);
  }

  /** The function is in another state from now on. */
  enter(one: ZpciFunction, state: ZpciFunction['state']): number {
    one.state = state;
    this.iotlb.serveNobody();
    return this.settle(one);
  }

  /** Disabled: nothing that the guest has registered is left. */
  disable(one: ZpciFunction): void {
    one.forget();
    this.iotlb.invalidateSpace(one.index);
    this.enter(one, STATE.disabled);
  }

  /**
   * Tells the observer what the function reaches, if that is news. Returns 0 or a negative errno: then the function is blocked on the
   * hardware, or, where even that was refused, owed a block.
   */
  settle(one: ZpciFunction): number {
    const { observer } = this;
    const space = one.reachable;
    one.owed = false;
    if (observer === null || one.attached === space) return 0;
    const result = observer.attach(one.fid, space);
    if (result >= 0) {
      one.attached = space;
      return 0;
    }
    // It must not go on reaching what the guest took away.
    one.owed = true;
    if (observer.attach(one.fid, null) >= 0) {
      one.attached = null;
      one.owed = space !== null;
    }
    return space === null && !one.owed ? 0 : result;
  }

  /** Each instruction tries again what was refused before. */
  settleOwed(): void {
    for (const one of this.all) if (one.owed) this.settle(one);
  }

  settleAll(): void {
    this.iotlb.invalidateAll();
    for (const one of this.all) this.settle(one);
  }
}

function fitsAtOnce(translation: FunctionTranslation): boolean {
  let runs = 0;
  return translation.enumerate(translation.first, translation.last, () => ++runs < RUNS_AT_ONCE) > translation.last;
}
