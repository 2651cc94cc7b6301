import { PFN_LIMIT } from '../../memory/address.ts';
import type { GuestMemory } from '../../memory/guest-memory.ts';
import { CountedMemory } from '../../pagetable/two-stage.ts';
import { get } from '../fields.ts';
import { IdentitySpace } from '../identity-space.ts';
import { type AddressSpace, type FirstStage, NO_PASID, type PageAnswer, sameStage, type TargetObserver } from '../target.ts';
import type { Features } from './capabilities.ts';
import { CONFIG, EATS, STE } from './spec/ste.ts';
import { ENTRY_BUDGET, TableSpace } from './table-space.ts';
import { type Route, VERDICT } from './translation/route.ts';
import { ANY_ASID, type Scope, STAGE_2_ONLY } from './translation/scope.ts';
import { StreamEntry } from './translation/stream-entry.ts';
import type { Translator } from './translation/translator.ts';

/** Doublewords 0 and 1 as far as they are stage 1's: V, Config, S1*; S1DSS to S1CSH, S1STALLD, EATS. */
const STAGE_1_FIELDS = [0xf80f_ffff_ffff_ffffn, 0x3800_00ffn] as const;

/** Address spaces of the streams that somebody backs with hardware, and what the observer has been told of them. */
export class Spaces {
  readonly #translator: Translator;
  readonly #features: Features;
  readonly #identity: AddressSpace;
  readonly #tables: CountedMemory;
  readonly #endpoints = new Set<number>();
  readonly #spaces = new Map<string, TableSpace>();
  readonly #attached = new Map<number, AddressSpace | null>();
  /** What `stageOf` said when the stream was attached. */
  readonly #stages = new Map<number, FirstStage | null>();
  readonly #owed = new Set<number>();
  #observer: TargetObserver | null = null;
  #changed = false;
  #readBefore = 0;

  constructor(translator: Translator, memory: GuestMemory, features: Features) {
    this.#translator = translator;
    this.#features = features;
    this.#identity = new IdentitySpace(memory);
    this.#tables = new CountedMemory(memory);
  }

  add(endpoint: number): void {
    this.#endpoints.add(endpoint);
    this.refresh(endpoint);
  }

  remove(endpoint: number): void {
    if (this.#attached.get(endpoint)) this.#observer?.attach(endpoint, null);
    this.#attached.delete(endpoint);
    this.#stages.delete(endpoint);
    this.#endpoints.delete(endpoint);
  }

  observe(observer: TargetObserver): () => void {
    if (this.#observer !== null) throw new TypeError('Smmuv3: it has an observer already');
    this.#observer = observer;
    this.refreshAll();
    return () => {
      if (this.#observer !== observer) return;
      this.#observer = null;
      this.#attached.clear();
      this.#stages.clear();
      this.#owed.clear();
    };
  }

  knows(endpoint: number): boolean {
    return this.#endpoints.has(endpoint);
  }

  spaceOf(endpoint: number, pasid = NO_PASID): AddressSpace | null {
    if (!this.#endpoints.has(endpoint)) return null;
    const route = this.#translator.configurations.route(endpoint, pasid < 0 ? NO_PASID : pasid);
    if (route.verdict === VERDICT.bypass) return this.#identity;
    if (route.verdict !== VERDICT.translate || route.entry === null) return null;
    // What the privileged reach under PAN no table says alone.
    if (route.context?.restrictsPrivileged && route.wishes[0] !== 0) return null;
    const key = keyOf(route);
    const known = this.#spaces.get(key);
    if (known !== undefined) return known;
    if (this.#spaces.size > 2 * this.#endpoints.size) this.#dropUnused();
    const space = new TableSpace(route.entry, route.context, this.#features, this.#tables);
    this.#spaces.set(key, space);
    return space;
  }

  /**
   * A stream's entry as hardware of the same kind takes it over: stage 1 of NS-EL1 in VMID 0, without attribute overrides (5.2). Its
   * substreams are in its table of context descriptors.
   */
  stageOf(endpoint: number, pasid = NO_PASID): FirstStage | null {
    if (!this.#endpoints.has(endpoint)) return { kind: 'abort' };
    const { configurations } = this.#translator;
    const entry = configurations.entry(endpoint);
    const off = configurations.route(endpoint, NO_PASID);
    if (off.entry === null && off.verdict !== VERDICT.fault) return pasid < 0 && off.verdict === VERDICT.bypass ? BYPASS : ABORT;
    if (!(entry instanceof StreamEntry) || !entry.passes) return ABORT;
    if (entry.config === CONFIG.bypass) return pasid < 0 ? BYPASS : ABORT;
    if (entry.config !== CONFIG.stage1 || entry.world !== 0 || isOverridden(entry)) return null;
    return pasid >= 0 && entry.substreamBits === 0 ? ABORT : { kind: 'smmuv3', ste: doublewords(entry) };
  }

  /** The stream's configuration may be another one: the observer is told when its space is. */
  refresh(endpoint: number): void {
    if (this.#observer === null || !this.#endpoints.has(endpoint)) return;
    const space = this.spaceOf(endpoint);
    const stage = this.stageOf(endpoint);
    this.#owed.delete(endpoint);
    if (this.#attached.get(endpoint) === space && sameStage(this.#stages.get(endpoint) ?? null, stage)) return;
    if (this.#observer.attach(endpoint, space) >= 0) {
      this.#attached.set(endpoint, space);
      this.#stages.set(endpoint, stage);
      return;
    }
    // Refused: it must not go on reaching what the guest took away. Blocked, it waits for the next flush.
    this.#owed.add(endpoint);
    if (this.#observer.attach(endpoint, null) >= 0) this.#attached.set(endpoint, null);
  }

  refreshRange(first: number, last: number): void {
    for (const endpoint of this.#endpoints) if (endpoint >= first && endpoint <= last) this.refresh(endpoint);
  }

  refreshAll(): void {
    for (const endpoint of this.#endpoints) this.refresh(endpoint);
    this.#dropUnused();
  }

  #dropUnused(): void {
    const used = new Set(this.#attached.values());
    for (const [key, space] of this.#spaces) if (!used.has(space)) this.#spaces.delete(key);
  }

  /** TLBI_*. A global page of stage 1 is every ASID's, so a range is said to all spaces of the world. */
  invalidated({ world, asid, first, last }: Scope): void {
    for (const space of new Set(this.#attached.values())) {
      if (!(space instanceof TableSpace) || space.entry.world !== world) continue;
      if (asid !== STAGE_2_ONLY) {
        const whole = first === 0 && last === PFN_LIMIT - 1;
        if (asid === ANY_ASID || !whole || space.context?.asid === asid) this.#say(space, first, last);
      } else if (space.context === null) this.#say(space, first, last);
      // Behind stage 1, any page may have changed.
      else if (space.entry.s2) this.#say(space, 0, PFN_LIMIT - 1);
    }
  }

  /** TLBI_NSNH_ALL. */
  invalidatedAll(): void {
    for (const space of new Set(this.#attached.values())) if (space instanceof TableSpace) this.#say(space, 0, PFN_LIMIT - 1);
  }

  /** All that was made of the leaves that covered the range. */
  #say(space: TableSpace, first: number, last: number): void {
    const from = space.leaves.first(first);
    const to = space.leaves.last(last);
    if (from === 0 && to === PFN_LIMIT - 1) space.leaves.clear();
    this.#observer?.changed(space, from, to);
    this.#changed = true;
  }

  /** The guest's own command, for hardware that walks the guest's tables. */
  command(words: Int32Array, endpoint: number): void {
    if (this.#observer?.invalidated === undefined) return;
    this.#observer.invalidated(words, endpoint);
    this.#changed = true;
  }

  /** What becomes of a device's page requests. */
  answer(endpoint: number, pasid: number, group: number, answer: PageAnswer): void {
    this.#observer?.answered?.(endpoint, pasid, group, answer);
  }

  /** Before the guest can see that its commands are done. */
  flush(): void {
    for (const endpoint of [...this.#owed]) this.refresh(endpoint);
    if (!this.#changed || this.#observer === null) return;
    // What the host refuses is not there for the hardware, whose requests fault. The next flush tries again.
    this.#changed = this.#observer.flush() < 0;
  }

  beginAccess(): void {
    this.#readBefore = this.#tables.loads;
  }

  /** A register access has made the observer read as much as one enumeration may: the rest of its commands is the next one's. */
  get isSpent(): boolean {
    return this.#tables.loads - this.#readBefore >= ENTRY_BUDGET;
  }
}

const ABORT: FirstStage = { kind: 'abort' };
const BYPASS: FirstStage = { kind: 'bypass' };

/** Streams whose requests mean the same: configuration of their stages, overrides, and the descriptor as it was read. */
function keyOf({ entry, context }: Route): string {
  if (entry === null) return '';
  const second = entry.s2 ? [...entry.words.subarray(4, 8)] : [];
  return JSON.stringify([entry.world, second, [...entry.wishes], context === null ? null : [...context.words]]);
}

/** PRIVCFG, INSTCFG: what hardware is not handed; EATS of two stages. */
function isOverridden(entry: StreamEntry): boolean {
  return entry.wishes.some((wish, access) => wish !== access) || get(entry.words, STE.EATS) > EATS.full;
}

function doublewords({ words }: StreamEntry): readonly [bigint, bigint] {
  const one = (i: 0 | 1) => ((BigInt(words[2 * i + 1] >>> 0) << 32n) | BigInt(words[2 * i] >>> 0)) & STAGE_1_FIELDS[i];
  return [one(0), one(1)];
}
