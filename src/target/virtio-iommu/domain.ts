import { READ_WRITE } from '../../memory/access.ts';
import { IntervalMap } from '../../memory/interval-map.ts';
import type { AddressSpace, PfnRange, RunVisitor } from '../target.ts';
import { type ReservedRegions, without } from './reserved-regions.ts';

/** What the configuration space says of domains (5.13.4), and the caps that a guest cannot exceed. */
export interface DomainLimits {
  /** lg2 of the page granularity: the lowest bit of page_size_mask. */
  readonly granuleLg2: number;
  readonly input: PfnRange;
  /** First and last domain number. */
  readonly domains: { readonly first: number; readonly last: number };
  /** Domains at one time. */
  readonly domainLimit: number;
  /** Mappings at one time, in all domains together. */
  readonly mappingLimit: number;
}

/**
 * A domain (5.13.6.3): the mappings of one or more endpoints, each mapping what one MAP request made. It exists while an
 * endpoint is attached; a new domain with an old number is a new space.
 */
export class Domain implements AddressSpace {
  readonly id: number;
  /** Made with ATTACH_F_BYPASS: has no mappings, its endpoints reach guest RAM as it is. */
  readonly bypass: boolean;
  /** Names this domain in the IOTLB; never that of an earlier domain with the same number. */
  readonly tag: number;
  readonly name: string;
  readonly owner = 'target';
  readonly announced = true;
  readonly granuleLg2: number;
  readonly mappings: IntervalMap;
  /** What is reserved for each of its endpoints. */
  readonly #members = new Set<ReservedRegions>();
  /** That of all of them, ascending by its first page. */
  #reserved: readonly PfnRange[] = [];
  readonly #input: PfnRange;
  #apertures: readonly PfnRange[];

  constructor(id: number, bypass: boolean, tag: number, limits: Pick<DomainLimits, 'granuleLg2' | 'input' | 'mappingLimit'>) {
    this.id = id;
    this.bypass = bypass;
    this.tag = tag;
    this.name = `domain ${id}`;
    this.granuleLg2 = limits.granuleLg2;
    this.mappings = new IntervalMap(limits.mappingLimit);
    this.#input = limits.input;
    this.#apertures = [limits.input];
  }

  /** The input range without what is reserved for one of the endpoints. The same array until an endpoint comes or goes. */
  get apertures(): readonly PfnRange[] {
    return this.#apertures;
  }

  /** Endpoints that are in it. */
  get size(): number {
    return this.#members.size;
  }

  add(member: ReservedRegions): void {
    this.#members.add(member);
    this.#cutApertures();
  }

  remove(member: ReservedRegions): void {
    this.#members.delete(member);
    this.#cutApertures();
  }

  /** Whether a page of [first, last] is reserved for one of the endpoints. */
  reserves(first: number, last: number): boolean {
    for (let i = 0; i < this.#reserved.length; i++) {
      const range = this.#reserved[i];
      if (range.first > last) return false;
      if (range.last >= first) return true;
    }
    return false;
  }

  /** Whether a mapping lies where something is reserved. */
  maps({ pages }: ReservedRegions): boolean {
    return pages.some(({ first, last }) => {
      const slot = this.mappings.seek(first);
      return slot >= 0 && this.mappings.firstOf(slot) <= last;
    });
  }

  /** At most one run a mapping. A mapping without READ and WRITE lets nothing through, and so is none. */
  enumerate(first: number, last: number, visit: RunVisitor): number {
    return this.mappings.runs(
      first,
      last,
      (iova, gpa, pages, permission) => (permission & READ_WRITE) === 0 || visit(iova, gpa, pages, permission),
    );
  }

  #cutApertures(): void {
    this.#reserved = [...this.#members].flatMap(({ pages }) => pages).sort((a, b) => a.first - b.first);
    this.#apertures = without(this.#reserved, this.#input);
  }
}
