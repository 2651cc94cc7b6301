import { MMIO } from '../../memory/access.ts';
import { PFN_LIMIT, pfnOfHiLo } from '../../memory/address.ts';
import { INTERVAL_OVERLAP } from '../../memory/interval-map.ts';
import { type Iotlb, NO_CONTEXT } from '../../memory/iotlb.ts';
import type { IdentitySpace } from '../identity-space.ts';
import type { AddressSpace, TargetObserver } from '../target.ts';
import { Domain, type DomainLimits } from './domain.ts';
import type { Endpoint } from './endpoint.ts';
import { Journal } from './journal.ts';
import {
  ATTACH_F_BYPASS,
  MAP_F_MMIO,
  MAP_F_READ,
  MAP_F_WRITE,
  S_DEVERR,
  S_FAULT,
  S_INVAL,
  S_NOENT,
  S_NOMEM,
  S_OK,
  S_RANGE,
  S_UNSUPP,
} from './protocol.ts';

/** A domain with the endpoints that are in it. */
export interface DomainMembers {
  readonly domain: Domain;
  readonly endpoints: readonly Endpoint[];
}

/**
 * The domains, and the requests on them: structures of 5.13.6.3 to 5.13.6.6 as they lie in memory, `at` bytes into a view that
 * holds them whole; each answers its status. MAP and UNMAP change what the guest means and note it down; `settle` makes the
 * hardware agree, or takes it back. ATTACH and DETACH reach the hardware at once, so what came before them is settled first.
 */
export class Domains {
  readonly endpoints = new Map<number, Endpoint>();
  observer: TargetObserver | null = null;
  /** Whether endpoints without a domain reach memory (5.13.6: "in bypass mode"). */
  bypass = false;
  /** Flags that the negotiated features allow. */
  attachFlags = 0;
  mapFlags = MAP_F_READ | MAP_F_WRITE;
  /** Of the last `settle` that answered false. */
  refusal = S_OK;
  readonly limits: DomainLimits;
  readonly identity: IdentitySpace;
  readonly #domains = new Map<number, Domain>();
  readonly #journal = new Journal();
  readonly #iotlb: Iotlb;
  readonly #granuleMask: number;
  #mappings = 0;
  #tag = 0;

  constructor(limits: DomainLimits, identity: IdentitySpace, iotlb: Iotlb) {
    this.limits = limits;
    this.identity = identity;
    this.#iotlb = iotlb;
    this.#granuleMask = 2 ** limits.granuleLg2 - 1;
  }

  /** Domains that exist. */
  get count(): number {
    return this.#domains.size;
  }
  /** Mappings in all of them. */
  get mappings(): number {
    return this.#mappings;
  }

  spaceOf(endpoint: Endpoint): AddressSpace | null {
    const domain = endpoint.domain;
    if (domain !== null && !domain.bypass) return domain;
    return domain !== null || this.bypass ? this.identity : null;
  }

  /** ATTACH (5.13.6.3). What it refuses changes nothing. */
  attach(request: DataView, at: number): number {
    const flags = request.getUint32(at + 12, true);
    if (request.getUint32(at + 16, true) !== 0 || (flags & ~this.attachFlags) !== 0) return S_INVAL;
    const endpoint = this.endpoints.get(request.getUint32(at + 8, true));
    if (endpoint === undefined) return S_NOENT;
    const id = request.getUint32(at + 4, true);
    if (id < this.limits.domains.first || id > this.limits.domains.last) return S_RANGE;
    const bypass = (flags & ATTACH_F_BYPASS) !== 0;
    const existing = this.#domains.get(id);
    if (existing !== undefined && existing.bypass !== bypass) return S_INVAL;
    if (existing !== undefined && existing === endpoint.domain) return S_OK;
    if (existing?.mapsReserved(endpoint)) return S_UNSUPP;
    // The domain that the endpoint leaves goes away with its last endpoint, and makes room for the new one.
    const leaving = endpoint.domain?.endpoints.size === 1 ? 1 : 0;
    if (existing === undefined && this.#domains.size - leaving >= this.limits.domainLimit) return S_NOMEM;
    return this.#move(endpoint, existing ?? this.create(id, bypass));
  }

  /** DETACH (5.13.6.4); `reserved` is not looked at. */
  detach(request: DataView, at: number): number {
    const endpoint = this.endpoints.get(request.getUint32(at + 8, true));
    if (endpoint === undefined) return S_NOENT;
    if (endpoint.domain === null || endpoint.domain.id !== request.getUint32(at + 4, true)) return S_INVAL;
    return this.#move(endpoint, null);
  }

  /** MAP (5.13.6.5). The section leaves open what a range above the input range or past 2^64 answers: RANGE; a reserved one: INVAL. */
  map(request: DataView, at: number): number {
    const flags = request.getUint32(at + 32, true);
    if ((flags & ~this.mapFlags) !== 0) return S_INVAL;
    const domain = this.#domains.get(request.getUint32(at + 4, true));
    if (domain === undefined) return S_NOENT;
    if (domain.bypass) return S_INVAL;
    const startLo = request.getInt32(at + 8, true);
    const endLo = request.getInt32(at + 16, true);
    const physLo = request.getInt32(at + 24, true);
    // virt_end + 1 is aligned when the low bits of virt_end are all ones.
    if (((startLo | ~endLo | physLo) & this.#granuleMask) !== 0) return S_RANGE;
    const first = pfnOfHiLo(request.getInt32(at + 12, true), startLo);
    const last = pfnOfHiLo(request.getInt32(at + 20, true), endLo);
    const gpa = pfnOfHiLo(request.getInt32(at + 28, true), physLo);
    if (last < first) return S_INVAL;
    if (first < this.limits.input.first || last > this.limits.input.last || gpa + (last - first) >= PFN_LIMIT) return S_RANGE;
    if (domain.reserves(first, last)) return S_INVAL;
    if (this.#mappings === this.limits.mappingLimit) return S_NOMEM;
    const permission = (flags & (MAP_F_READ | MAP_F_WRITE)) | (flags & MAP_F_MMIO ? MMIO : 0);
    const slot = domain.mappings.insert(first, last - first + 1, gpa, permission);
    if (slot < 0) return slot === INTERVAL_OVERLAP ? S_INVAL : S_NOMEM;
    this.#mappings++;
    if (this.observer !== null) {
      this.#journal.added(domain, slot);
      this.observer.changed(domain, first, last);
    }
    return S_OK;
  }

  /** UNMAP (5.13.6.6): whole mappings only; the range need not be pages, and may cover what is not mapped. */
  unmap(request: DataView, at: number): number {
    if (request.getUint32(at + 24, true) !== 0) return S_INVAL;
    const domain = this.#domains.get(request.getUint32(at + 4, true));
    if (domain === undefined) return S_NOENT;
    if (domain.bypass) return S_INVAL;
    const startLo = request.getInt32(at + 8, true);
    const endLo = request.getInt32(at + 16, true);
    const first = pfnOfHiLo(request.getInt32(at + 12, true), startLo);
    const last = pfnOfHiLo(request.getInt32(at + 20, true), endLo);
    if (last < first || (last === first && endLo >>> 0 < startLo >>> 0)) return S_INVAL;
    // A page that the range covers in part counts as one that it does not cover.
    const wholeFirst = (startLo & 0xfff) === 0 ? first : first + 1;
    const wholeEnd = (endLo & 0xfff) === 0xfff ? last + 1 : last;
    const mappings = domain.mappings;
    const low = mappings.lookup(first);
    if (low >= 0 && mappings.firstOf(low) < wholeFirst) return S_RANGE;
    const high = mappings.lookup(last);
    if (high >= 0 && mappings.firstOf(high) + mappings.pagesOf(high) > wholeEnd) return S_RANGE;
    this.#removeAll(domain, first, last);
    return S_OK;
  }

  #removeAll(domain: Domain, first: number, last: number): void {
    const mappings = domain.mappings;
    const before = mappings.size;
    const slot = mappings.seek(first);
    if (slot < 0 || mappings.firstOf(slot) > last) return;
    const from = mappings.firstOf(slot);
    let end = from;
    for (let next = slot; next >= 0 && mappings.firstOf(next) <= last; next = mappings.seek(end)) {
      end = mappings.firstOf(next) + mappings.pagesOf(next);
      if (this.observer !== null) this.#journal.removing(domain, next);
    }
    mappings.remove(from, end - from);
    this.#mappings -= before - mappings.size;
    this.#iotlb.invalidateRange(domain.tag, NO_CONTEXT, from, end - 1);
    this.observer?.changed(domain, from, end - 1);
  }

  /**
   * Makes the hardware agree with the MAPs and UNMAPs since the last time. False: it could not, and they are all taken back;
   * the status to answer is in `refusal`.
   */
  settle(): boolean {
    const observer = this.observer;
    if (observer === null || this.#journal.count === 0) return true;
    const result = observer.flush();
    if (result >= 0) {
      this.#journal.clear();
      return true;
    }
    this.refusal = statusOf(result);
    this.#journal.undo(this.#takenBack);
    // Back to what the hardware had; should even that fail, the path keeps trying at every later flush.
    observer.flush();
    return false;
  }

  /** A domain that no endpoint is in yet. */
  create(id: number, bypass: boolean): Domain {
    const { granuleLg2, input, mappingLimit } = this.limits;
    this.#tag = (this.#tag + 1) | 0;
    return new Domain(id, bypass, this.#tag, { granuleLg2, input, mappingLimit });
  }

  readonly #takenBack = (domain: Domain, first: number, last: number, mappings: number): void => {
    this.#mappings += mappings;
    this.#iotlb.invalidateRange(domain.tag, NO_CONTEXT, first, last);
    this.observer?.changed(domain, first, last);
  };

  /** Whether endpoints without a domain reach memory from now on. False: the hardware refused, and nothing has changed. */
  setBypass(bypass: boolean): boolean {
    if (bypass === this.bypass) return true;
    const loose = [...this.endpoints.values()].filter(({ domain }) => domain === null);
    const reach = (on: boolean) => (on ? this.identity : null);
    const refused = loose.findIndex(({ id }) => this.#tell(id, reach(bypass)) < 0);
    if (refused < 0) {
      this.bypass = bypass;
      return true;
    }
    for (const { id } of loose.slice(0, refused)) this.#tellBack(id, reach(!bypass));
    return false;
  }

  /** All domains go, these come, each with its endpoints. False: the hardware refused to follow, and nothing has changed. */
  replace(next: readonly DomainMembers[], bypass: boolean): boolean {
    const endpoints = [...this.endpoints.values()];
    const before = { domains: this.members(), bypass: this.bypass, spaces: endpoints.map((endpoint) => this.spaceOf(endpoint)) };
    this.#install(next, bypass);
    const moves = (endpoint: Endpoint, i: number) => this.spaceOf(endpoint) !== before.spaces[i];
    const refused = endpoints.findIndex((endpoint, i) => moves(endpoint, i) && this.#tell(endpoint.id, this.spaceOf(endpoint)) < 0);
    if (refused < 0) return true;
    const moved = endpoints.slice(0, refused).filter(moves);
    this.#install(before.domains, before.bypass);
    for (const endpoint of moved) this.#tellBack(endpoint.id, this.spaceOf(endpoint));
    return false;
  }

  /** An endpoint goes back to what it reached before. Where the hardware refuses that too it is blocked: nothing is better than what it must not reach. */
  #tellBack(id: number, space: AddressSpace | null): void {
    if (this.#tell(id, space) < 0 && space !== null) this.#tell(id, null);
  }

  /** All domains go, and every endpoint is blocked: what remains when the hardware cannot do better. */
  block(): void {
    this.#install([], false);
    for (const endpoint of this.endpoints.keys()) this.#tell(endpoint, null);
  }

  members(): DomainMembers[] {
    return [...this.#domains.values()].map((domain) => ({ domain, endpoints: [...domain.endpoints] }));
  }

  #install(next: readonly DomainMembers[], bypass: boolean): void {
    for (const endpoint of this.endpoints.values()) endpoint.domain?.remove(endpoint);
    this.#domains.clear();
    this.#mappings = 0;
    this.bypass = bypass;
    for (const { domain, endpoints } of next) {
      for (const endpoint of endpoints) domain.add(endpoint);
      this.#domains.set(domain.id, domain);
      this.#mappings += domain.mappings.size;
    }
  }

  /** An endpoint is no longer there. */
  forget(endpoint: Endpoint): void {
    this.endpoints.delete(endpoint.id);
    this.#tell(endpoint.id, null);
    const domain = endpoint.domain;
    domain?.remove(endpoint);
    if (domain !== null) this.#dropIfEmpty(domain);
  }

  /** Moves an endpoint to another domain or to none. The hardware goes first: it may refuse. */
  #move(endpoint: Endpoint, to: Domain | null): number {
    const from = endpoint.domain;
    from?.remove(endpoint);
    to?.add(endpoint);
    const result = this.#tell(endpoint.id, this.spaceOf(endpoint));
    if (result < 0) {
      to?.remove(endpoint);
      from?.add(endpoint);
      // 5.13.6.3.2: the endpoint is not compatible with the domain.
      return to !== null && (result === EINVAL || result === ERANGE) ? S_UNSUPP : statusOf(result);
    }
    if (from !== null) this.#dropIfEmpty(from);
    if (to !== null) this.#domains.set(to.id, to);
    return S_OK;
  }

  /** "After all endpoints have been successfully detached from a domain, it ceases to exist" (5.13.6.4). */
  #dropIfEmpty(domain: Domain): void {
    if (domain.endpoints.size > 0) return;
    this.#domains.delete(domain.id);
    this.#mappings -= domain.mappings.size;
  }

  #tell(endpoint: number, space: AddressSpace | null): number {
    return this.observer?.attach(endpoint, space) ?? 0;
  }
}

const ENOMEM = -12;
const EFAULT = -14;
const EINVAL = -22;
const ENOSPC = -28;
const ERANGE = -34;

/** How a host's errno is said in 5.13.6's words. */
function statusOf(result: number): number {
  if (result === ENOMEM || result === ENOSPC) return S_NOMEM;
  if (result === EFAULT) return S_FAULT;
  return result === ERANGE ? S_RANGE : S_DEVERR;
}
