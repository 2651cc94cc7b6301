import { READ_WRITE } from '../../memory/access.ts';
import { PFN_LIMIT } from '../../memory/address.ts';
import type { GuestMemory } from '../../memory/guest-memory.ts';
import { CountedMemory } from '../../pagetable/two-stage.ts';
import { Announcements } from '../announcements.ts';
import { get, put } from '../fields.ts';
import { IdentitySpace } from '../identity-space.ts';
import { KnownSpaces } from '../known-spaces.ts';
import { Observed, type Says } from '../observed.ts';
import { NO_PROCESS, TaggedSpaces } from '../tagged-spaces.ts';
import { type AddressSpace, type FirstStage, NO_PASID, type TargetObserver } from '../target.ts';
import { EndpointDomains } from './endpoint-domains.ts';
import { DTE } from './spec/dte.ts';
import { ENTRY_BUDGET, TableSpace } from './table-space.ts';
import { type DeviceEntry, VERDICT } from './translation/device-entry.ts';
import type { Translator } from './translation/translator.ts';

/** Address spaces of the endpoints that somebody backs with hardware. */
export class Spaces {
  readonly #translator: Translator;
  readonly #announced: boolean;
  readonly #identity: AddressSpace;
  readonly #tables: CountedMemory;
  readonly #observed: Observed;
  /** By the tags that invalidations name. */
  readonly #tagged = new TaggedSpaces<TableSpace>((space) => space instanceof TableSpace);
  readonly #domains = new EndpointDomains();
  readonly #known: KnownSpaces<TableSpace>;
  /** In which pieces the observer is told, and what one register access may read. */
  readonly announcements: Announcements<TableSpace>;

  constructor(translator: Translator, memory: GuestMemory, announced: boolean) {
    this.#translator = translator;
    this.#announced = announced;
    this.#identity = new IdentitySpace(memory, 'guest');
    this.#tables = new CountedMemory(memory);
    const says: Says = {
      wantedSpaceOf: (endpoint, pasid) => this.#noted(endpoint, pasid),
      wantedStageOf: (endpoint, pasid) => this.#wantedStageOf(endpoint, pasid),
    };
    this.#observed = new Observed('AmdIommu', says, this.#tagged);
    this.announcements = new Announcements(this.#observed, this.#tables, ENTRY_BUDGET);
    this.#known = new KnownSpaces(this.#observed, (space) => this.announcements.forget(space));
  }

  add(endpoint: number): void {
    this.#observed.add(endpoint);
  }

  retry(): void {
    this.#observed.retry();
  }

  knows(endpoint: number): boolean {
    return this.#observed.knows(endpoint);
  }

  remove(endpoint: number): void {
    this.#observed.remove(endpoint);
    this.#domains.remove(endpoint);
  }

  observe(observer: TargetObserver): () => void {
    return this.#observed.observe(observer, () => {
      this.#known.clear();
      this.announcements.clear();
    });
  }

  /** The same for the observer, which is told of all that there is: the domain is remembered with it. */
  #noted(endpoint: number, pasid: number): AddressSpace | null {
    if (this.knows(endpoint)) this.#domains.set(endpoint, this.#translator.entry(endpoint).domain);
    return this.#wantedSpaceOf(endpoint, pasid);
  }

  spaceOf(endpoint: number, pasid = NO_PASID): AddressSpace | null {
    return this.#observed.isRefused(endpoint, pasid) ? null : this.#wantedSpaceOf(endpoint, pasid);
  }

  stageOf(endpoint: number, pasid = NO_PASID): FirstStage | null {
    return this.#observed.isRefused(endpoint, pasid) ? { kind: 'abort' } : this.#wantedStageOf(endpoint, pasid);
  }

  #wantedSpaceOf(endpoint: number, pasid: number): AddressSpace | null {
    if (!this.knows(endpoint)) return null;
    const entry = this.#translator.entry(endpoint);
    if (entry.verdict === VERDICT.pass) return this.#identity;
    if (entry.verdict !== VERDICT.translate) return null;
    const context = entry.guestPasid(pasid);
    if (context < 0 && pasid >= 0) return null;
    const excluded = this.#translator.excluded(entry);
    const root = context < 0 ? -1 : this.#translator.guestRoot(entry, context);
    if ((context >= 0 && root < 0) || (entry.granted === 0 && excluded === null)) return null;
    const key = this.#known.key().add(entry.domain).add(entry.granted).add(entry.mode);
    if (entry.mode > 0) key.add(entry.hostRoot).add(get(entry.words, DTE.HAD));
    key.add(context).add(root).add(entry.guestLevels);
    key.add(excluded?.first ?? -1).add(excluded?.last ?? -1);
    key.add(get(entry.words, DTE.SYS_MGT)).add(get(entry.words, DTE.IO_CONTROL));
    const known = this.#known.find(key);
    return known ?? this.#known.add(key, new TableSpace({ entry, pasid: context, root, excluded }, this.#tables, this.#announced));
  }

  /** The device's entry as hardware of the same kind takes it over, where guest tables are all that it has (2.2.2.1). */
  #wantedStageOf(endpoint: number, pasid: number): FirstStage | null {
    const entry = this.knows(endpoint) ? this.#translator.entry(endpoint) : null;
    if (entry === null || (entry.verdict !== VERDICT.translate && entry.verdict !== VERDICT.pass)) return { kind: 'abort' };
    if (entry.verdict === VERDICT.pass) return { kind: 'bypass' };
    if (entry.guestPasid(pasid) >= 0 && entry.host === null && entry.granted === READ_WRITE)
      return { kind: 'amd', dte: doublewords(entry) };
    if (pasid >= 0) return { kind: 'abort' };
    return entry.host === null && entry.granted === READ_WRITE ? { kind: 'bypass' } : null;
  }

  /** The endpoint's entry may be another one: the observer is told when its space is. */
  refresh(endpoint: number): void {
    this.#observed.refresh(endpoint);
  }

  refreshAll(): void {
    this.#observed.refreshAll();
    this.#known.dropUnused();
  }

  /** INVALIDATE_IOMMU_PAGES. `pasid` -1: the host table's input, behind which any page of a guest table may have changed. */
  invalidated(domain: number, pasid: number, first: number, last: number): void {
    const process = pasid < 0 ? NO_PROCESS : pasid;
    for (const space of this.#tagged.of(domain, process)) this.announcements.say(space, first, last);
    // The root of a guest's table is cached with its translations.
    if (pasid >= 0) this.#observed.refreshProcess(pasid, this.#domains.endpointsOf(domain));
    else
      for (const space of this.#tagged.ofDomain(domain)) if (space.process !== NO_PROCESS) this.announcements.say(space, 0, PFN_LIMIT - 1);
  }

  /** INVALIDATE_IOMMU_ALL, and whatever makes the IOMMU forget all that it had cached. */
  invalidatedAll(): void {
    this.refreshAll();
    for (const space of this.#tagged.all) this.announcements.say(space, 0, PFN_LIMIT - 1);
  }

  /** The guest's own command, for hardware that walks the guest's tables. */
  command(words: Int32Array, endpoint: number): void {
    this.#observed.invalidated(words, endpoint);
  }

  get isObserved(): boolean {
    return this.#observed.observer !== null;
  }
}

/** What of the entry is about guest tables: interrupts are remapped here, and attributes are the host's. */
function doublewords({ words }: DeviceEntry): readonly [bigint, bigint, bigint, bigint] {
  const one = (i: number) => (BigInt(words[2 * i + 1] >>> 0) << 32n) | BigInt(words[2 * i] >>> 0);
  const levels = new Int32Array(8);
  put(levels, DTE.GUEST_LEVELS, get(words, DTE.GUEST_LEVELS));
  return [one(0), one(1), BigInt(levels[5] >>> 0) << 32n, 0n];
}
