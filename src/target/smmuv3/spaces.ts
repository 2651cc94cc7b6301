import { PFN_LIMIT } from '../../memory/address.ts';
import type { GuestMemory } from '../../memory/guest-memory.ts';
import { CountedMemory } from '../../pagetable/two-stage.ts';
import { Announcements } from '../announcements.ts';
import { get } from '../fields.ts';
import { IdentitySpace } from '../identity-space.ts';
import { KnownSpaces, type SpaceKey } from '../known-spaces.ts';
import { Observed } from '../observed.ts';
import { NO_PROCESS, TaggedSpaces } from '../tagged-spaces.ts';
import { type AddressSpace, type FirstStage, NO_PASID, type PageAnswer, type TargetObserver } from '../target.ts';
import type { Features } from './capabilities.ts';
import { ATC_SIZE_ALL, OPCODE } from './spec/commands.ts';
import { CONFIG, EATS, STE } from './spec/ste.ts';
import { ENTRY_BUDGET, TableSpace } from './table-space.ts';
import { type Route, VERDICT } from './translation/route.ts';
import { ANY_ASID, STAGE_2_ONLY } from './translation/scope.ts';
import { StreamEntry } from './translation/stream-entry.ts';
import type { Translator } from './translation/translator.ts';

/** Doublewords 0 and 1 as far as they are stage 1's: V, Config, S1*; S1DSS to S1CSH, S1STALLD, EATS. */
const STAGE_1_FIELDS = [0xf80f_ffff_ffff_ffffn, 0x3800_00ffn] as const;

/** Substreams that are looked for when a stream's entry is read; the guest tells of others by CFGI_CD. */
const SUBSTREAMS_LISTED = 256;
/** Of a context descriptor (5.4). */
const CD_DOUBLEWORDS = 8;

/** Address spaces of the streams that somebody backs with hardware. */
export class Spaces {
  readonly #translator: Translator;
  readonly #features: Features;
  readonly #identity: AddressSpace;
  readonly #tables: CountedMemory;
  readonly #observed: Observed;
  /** By the tags that invalidations name. */
  readonly #tagged = new TaggedSpaces<TableSpace>((space) => space instanceof TableSpace);
  /** Of these, and perhaps others, those in whose tables of stage 1 somebody has met a global page. */
  readonly #global = new TaggedSpaces<TableSpace>((space) => space instanceof TableSpace);
  readonly #known: KnownSpaces<TableSpace>;
  /** In which pieces the observer is told, and what one register access may read. */
  readonly announcements: Announcements<TableSpace>;

  constructor(translator: Translator, memory: GuestMemory, features: Features) {
    this.#translator = translator;
    this.#features = features;
    this.#identity = new IdentitySpace(memory, 'guest');
    this.#tables = new CountedMemory(memory);
    this.#observed = new Observed('Smmuv3', this, this.#tagged);
    this.announcements = new Announcements(this.#observed, this.#tables, ENTRY_BUDGET);
    this.#known = new KnownSpaces(this.#observed, (space) => {
      this.#global.left(space);
      this.announcements.forget(space);
    });
  }

  add(endpoint: number): void {
    this.#observed.add(endpoint);
  }

  remove(endpoint: number): void {
    this.#observed.remove(endpoint);
  }

  observe(observer: TargetObserver): () => void {
    return this.#observed.observe(observer, () => {
      for (const space of [...this.#global.all]) this.#global.left(space);
      this.#known.clear();
      this.announcements.clear();
    });
  }

  /** Somebody is to be told of changes. */
  get areObserved(): boolean {
    return this.#observed.observer !== null;
  }

  retry(): void {
    this.#observed.retry();
  }

  knows(endpoint: number): boolean {
    return this.#observed.knows(endpoint);
  }

  spaceOf(endpoint: number, pasid = NO_PASID): AddressSpace | null {
    return this.#observed.isRefused(endpoint, pasid) ? null : this.wantedSpaceOf(endpoint, pasid);
  }

  stageOf(endpoint: number, pasid = NO_PASID): FirstStage | null {
    return this.#observed.isRefused(endpoint, pasid) ? { kind: 'abort' } : this.wantedStageOf(endpoint, pasid);
  }

  wantedSpaceOf(endpoint: number, pasid: number): AddressSpace | null {
    if (!this.knows(endpoint)) return null;
    const route = this.#translator.configurations.route(endpoint, pasid < 0 ? NO_PASID : pasid);
    if (route.verdict === VERDICT.bypass) return this.#identity;
    const { entry, context } = route;
    if (route.verdict !== VERDICT.translate || entry === null) return null;
    // What the privileged reach under PAN no table says alone.
    if (context?.restrictsPrivileged && route.wishes[0] !== 0) return null;
    const key = this.#known.key();
    identify(key, entry, context);
    return this.#known.find(key) ?? this.#known.add(key, new TableSpace(entry, context, this.#features, this.#tables, this.#global));
  }

  /**
   * A stream's entry as hardware of the same kind takes it over: stage 1 of NS-EL1 in VMID 0, without attribute overrides (5.2). Its
   * substreams are in its table of context descriptors.
   */
  wantedStageOf(endpoint: number, pasid: number): FirstStage | null {
    if (!this.knows(endpoint)) return { kind: 'abort' };
    const { configurations } = this.#translator;
    const entry = configurations.entry(endpoint);
    const off = configurations.route(endpoint, NO_PASID);
    if (off.entry === null && off.verdict !== VERDICT.fault) return pasid < 0 && off.verdict === VERDICT.bypass ? BYPASS : ABORT;
    if (!(entry instanceof StreamEntry) || !entry.passes) return ABORT;
    if (entry.config === CONFIG.bypass) return pasid < 0 ? BYPASS : ABORT;
    if (entry.config !== CONFIG.stage1 || entry.world !== 0 || isOverridden(entry)) return null;
    return pasid >= 0 && entry.substreamBits === 0 ? ABORT : { kind: 'smmuv3', ste: doublewords(entry) };
  }

  /** Says.listPasids: substreams of the stream that reach something, of the first SUBSTREAMS_LISTED. */
  listPasids(endpoint: number): readonly number[] {
    const entry = this.#translator.configurations.entry(endpoint);
    if (!(entry instanceof StreamEntry) || entry.substreamBits === 0) return [];
    const count = Math.min(2 ** entry.substreamBits, SUBSTREAMS_LISTED);
    this.announcements.spend(count * CD_DOUBLEWORDS);
    return Array.from({ length: count }, (_, substream) => substream).filter(
      (substream) => this.wantedSpaceOf(endpoint, substream) !== null,
    );
  }

  pasidsOf(endpoint: number): readonly number[] {
    return this.#observed.pasidsOf(endpoint);
  }

  /** The same as `refresh` of one substream, and of requests without one, which may have its descriptor. */
  refreshSubstream(endpoint: number, substream: number): void {
    this.#observed.refreshProcess(substream, [endpoint]);
  }

  /** The stream's configuration may be another one: the observer is told when its space is. */
  refresh(endpoint: number): void {
    this.#observed.refresh(endpoint);
  }

  refreshRange(first: number, last: number): void {
    this.#observed.refreshRange(first, last);
  }

  refreshAll(): void {
    this.#observed.refreshAll();
    this.#known.dropUnused();
  }

  /** TLBI_*. A global page of stage 1 is every ASID's, so a range is said to all spaces of the world that have any (4.4.2). */
  invalidated(world: number, asid: number, first: number, last: number): void {
    if (asid === STAGE_2_ONLY) {
      for (const space of this.#tagged.of(world, NO_PROCESS)) this.announcements.say(space, first, last);
      // Behind stage 1, any page may have changed.
      for (const space of this.#tagged.ofDomain(world))
        if (space.context !== null && space.entry.s2) this.announcements.say(space, 0, PFN_LIMIT - 1);
      return;
    }
    for (const space of asid === ANY_ASID ? this.#tagged.ofDomain(world) : this.#tagged.of(world, asid))
      this.announcements.say(space, first, last);
    if (asid === ANY_ASID || (first === 0 && last === PFN_LIMIT - 1)) return;
    for (const space of this.#global.ofDomain(world))
      if (space.process !== asid && this.#observed.reaches(space)) this.announcements.say(space, first, last);
  }

  /** TLBI_NSNH_ALL. */
  invalidatedAll(): void {
    for (const space of this.#tagged.all) this.announcements.say(space, 0, PFN_LIMIT - 1);
  }

  /** The SMMU has forgotten what it had cached, and no command of the guest's says so. */
  forgetAll(): void {
    this.invalidatedAll();
    for (const words of [EVERY_STREAM, EVERY_TRANSLATION]) this.command(words, -1);
    for (const endpoint of this.#observed.endpoints) this.command(Int32Array.of(OPCODE.ATC_INV, endpoint, ATC_SIZE_ALL, 0), endpoint);
    this.refreshAll();
  }

  /** The guest's own command, for hardware that walks the guest's tables. */
  command(words: Int32Array, endpoint: number): void {
    this.#observed.invalidated(words, endpoint);
  }

  /** What becomes of a device's page requests. */
  answer(endpoint: number, pasid: number, group: number, answer: PageAnswer): void {
    this.#observed.observer?.answered?.(endpoint, pasid, group, answer);
  }
}

/** CFGI_ALL (4.3.6) and TLBI_NSNH_ALL (4.4.2), for hardware that walks the guest's tables. */
const EVERY_STREAM = Int32Array.of(OPCODE.CFGI_STE_RANGE, 0, 31, 0);
const EVERY_TRANSLATION = Int32Array.of(OPCODE.TLBI_NSNH_ALL, 0, 0, 0);

const ABORT: FirstStage = { kind: 'abort' };
const BYPASS: FirstStage = { kind: 'bypass' };

/** Streams whose requests mean the same: configuration of their stages, overrides, and the descriptor as it was read. */
function identify(key: SpaceKey, entry: StreamEntry, context: Route['context']): void {
  key.add(entry.world).add(entry.s2).addAll(entry.wishes);
  if (entry.s2) key.addAll(entry.words, 4, 8);
  if (context !== null) key.addAll(context.words);
}

/** PRIVCFG, INSTCFG: what hardware is not handed; EATS of two stages. */
function isOverridden(entry: StreamEntry): boolean {
  return entry.wishes.some((wish, access) => wish !== access) || get(entry.words, STE.EATS) > EATS.full;
}

function doublewords({ words }: StreamEntry): readonly [bigint, bigint] {
  const one = (i: 0 | 1) => ((BigInt(words[2 * i + 1] >>> 0) << 32n) | BigInt(words[2 * i] >>> 0)) & STAGE_1_FIELDS[i];
  return [one(0), one(1)];
}
