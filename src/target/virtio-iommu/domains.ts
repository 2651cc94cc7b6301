import { type Iotlb, NO_CONTEXT } from '../../memory/iotlb.ts';
import type { IdentitySpace } from '../identity-space.ts';
import type { AddressSpace, TargetObserver } from '../target.ts';
import { Domain, type DomainLimits } from './domain.ts';
import type { Endpoint } from './endpoint.ts';
import { Journal } from './journal.ts';
import type { ReservedRegions } from './reserved-regions.ts';
import { S_OK, S_UNSUPP } from './spec/requests.ts';
import { statusOf } from './status.ts';

/** A domain with the endpoints that are in it. */
export interface DomainMembers {
  readonly domain: Domain;
  readonly endpoints: readonly Endpoint[];
}

/**
 * The domains and who is in them. Mappings that come and go are noted down, and `settle` makes the hardware agree, or takes them back. An endpoint
 * that moves reaches the hardware at once, so what came before is to be settled first.
 */
export class Domains {
  readonly endpoints = new Map<number, Endpoint>();
  observer: TargetObserver | null = null;
  /** Whether endpoints without a domain reach memory (5.13.6: "in bypass mode"). */
  bypass = false;
  /** Of the last `settle` that answered false. */
  refusal = S_OK;
  readonly limits: DomainLimits;
  readonly identity: IdentitySpace;
  readonly #domains = new Map<number, Domain>();
  /** The one that was asked for last, if there is one: guests stay with it for long. */
  #found: Domain | undefined = undefined;
  readonly #journal = new Journal();
  readonly #iotlb: Iotlb;
  #mappings = 0;
  #tag = 0;

  constructor(limits: DomainLimits, identity: IdentitySpace, iotlb: Iotlb) {
    this.limits = limits;
    this.identity = identity;
    this.#iotlb = iotlb;
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

  get(id: number): Domain | undefined {
    const found = this.#found;
    return found !== undefined && found.id === id ? found : this.#find(id);
  }

  #find(id: number): Domain | undefined {
    this.#found = this.#domains.get(id);
    return this.#found;
  }

  /** Adds a mapping. Negative: what IntervalMap.insert answers, and there is none. */
  map(domain: Domain, first: number, last: number, gpa: number, permission: number): number {
    const slot = domain.mappings.insert(first, last - first + 1, gpa, permission);
    if (slot < 0) return slot;
    this.#mappings++;
    if (this.observer !== null) {
      this.#journal.added(domain, slot);
      this.observer.changed(domain, first, last);
    }
    return slot;
  }

  /** Removes every mapping that has a page of [first, last]. */
  unmap(domain: Domain, first: number, last: number): void {
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
    if (this.#tell(id, space) < 0) this.#block(id);
  }

  /** All domains go, and every endpoint is blocked: what remains when the hardware cannot do better. */
  block(): void {
    this.#install([], false);
    for (const endpoint of this.endpoints.keys()) this.#block(endpoint);
  }

  members(): DomainMembers[] {
    const members = new Map<Domain, Endpoint[]>();
    for (const domain of this.#domains.values()) members.set(domain, []);
    for (const endpoint of this.endpoints.values()) if (endpoint.domain !== null) members.get(endpoint.domain)?.push(endpoint);
    return [...members].map(([domain, endpoints]) => ({ domain, endpoints }));
  }

  #install(next: readonly DomainMembers[], bypass: boolean): void {
    for (const endpoint of this.endpoints.values()) this.#leave(endpoint);
    this.#domains.clear();
    this.#found = undefined;
    this.#mappings = 0;
    this.bypass = bypass;
    for (const { domain, endpoints } of next) {
      for (const endpoint of endpoints) join(endpoint, domain);
      this.#domains.set(domain.id, domain);
      this.#mappings += domain.mappings.size;
    }
  }

  /** Something else is reserved for an endpoint; what its domain maps there already stands. */
  reserve(endpoint: Endpoint, reserved: ReservedRegions): void {
    endpoint.domain?.remove(endpoint.reserved);
    endpoint.reserved = reserved;
    endpoint.domain?.add(reserved);
  }

  /** An endpoint is no longer there. */
  forget(endpoint: Endpoint): void {
    this.endpoints.delete(endpoint.id);
    this.#block(endpoint.id);
    const { domain } = endpoint;
    this.#leave(endpoint);
    if (domain !== null) this.#dropIfEmpty(domain);
  }

  /** Moves an endpoint to another domain or to none, and answers the status. The hardware goes first: it may refuse. */
  move(endpoint: Endpoint, to: Domain | null): number {
    const from = endpoint.domain;
    this.#leave(endpoint);
    if (to !== null) join(endpoint, to);
    const result = this.#tell(endpoint.id, this.spaceOf(endpoint));
    if (result < 0) {
      this.#leave(endpoint);
      if (from !== null) join(endpoint, from);
      // ATTACH.4: the endpoint is not compatible with the domain.
      return to !== null && INCOMPATIBLE.has(result) ? S_UNSUPP : statusOf(result);
    }
    if (from !== null) this.#dropIfEmpty(from);
    if (to !== null) this.#domains.set(to.id, to);
    return S_OK;
  }

  #leave(endpoint: Endpoint): void {
    endpoint.domain?.remove(endpoint.reserved);
    endpoint.domain = null;
    this.#iotlb.serveNobody();
  }

  /** "After all endpoints have been successfully detached from a domain, it ceases to exist" (5.13.6.4). */
  #dropIfEmpty(domain: Domain): void {
    if (domain.size > 0) return;
    this.#domains.delete(domain.id);
    this.#found = undefined;
    this.#mappings -= domain.mappings.size;
  }

  #block(endpoint: number): void {
    if (this.observer?.block === undefined) this.#tell(endpoint, null);
    else this.observer.block(endpoint);
  }

  #tell(endpoint: number, space: AddressSpace | null): number {
    return this.observer?.attach(endpoint, space) ?? 0;
  }
}

/** How hosts refuse a device that cannot reach what a space maps or must be able to map: EINVAL, ERANGE, EADDRINUSE (iommufd). */
const INCOMPATIBLE: ReadonlySet<number> = new Set([-22, -34, -98]);

function join(endpoint: Endpoint, domain: Domain): void {
  domain.add(endpoint.reserved);
  endpoint.domain = domain;
}
