import { pfnOfHiLo } from '../../memory/address.ts';
import { INTERVAL_OVERLAP } from '../../memory/interval-map.ts';
import { get } from '../fields.ts';
import type { Domains } from './domains.ts';
import {
  ATTACH,
  ATTACH_BYTES,
  ATTACH_F_BYPASS,
  DETACH,
  DETACH_BYTES,
  S_INVAL,
  S_NOENT,
  S_NOMEM,
  S_OK,
  S_RANGE,
  S_UNSUPP,
  T_ATTACH,
  T_DETACH,
} from './spec/requests.ts';
import { S_NONE } from './status.ts';

/**
 * MAP and UNMAP, which come often, as spec/requests.ts declares them; here because the compiler folds a module's own constants only.
 * Words of a request.
 */
const TYPE_MASK = 0xff;
const T_MAP = 3;
const T_UNMAP = 4;
const MAP_BYTES = 36;
const UNMAP_BYTES = 28;
const DOMAIN = 1;
const START_LO = 2;
const START_HI = 3;
const END_LO = 4;
const END_HI = 5;
const PHYS_LO = 6;
const PHYS_HI = 7;
const FLAGS = 8;
const UNMAP_RESERVED = 6;
const READ_AND_WRITE = 3;
const F_MMIO = 4;
/** S_OK; PFN_LIMIT and MMIO of src/memory. */
const DONE = 0;
const PAGES_END = 2 ** 52;
const TO_REGISTERS = 16;
/** For the test that compares them with their declaration. */
export const REPEATED = {
  TYPE_MASK,
  T_MAP,
  T_UNMAP,
  MAP_BYTES,
  UNMAP_BYTES,
  DOMAIN,
  START_LO,
  START_HI,
  END_LO,
  END_HI,
  PHYS_LO,
  PHYS_HI,
  FLAGS,
  UNMAP_RESERVED,
  READ_AND_WRITE,
  F_MMIO,
  DONE,
  PAGES_END,
  TO_REGISTERS,
} as const;

/**
 * ATTACH, DETACH, MAP and UNMAP as they lie in memory; each answers its status. MAP.3 is the third requirement for the device in the section of
 * MAP (5.13.6.5.2), and so on: ATTACH 5.13.6.3.2, DETACH 5.13.6.4.2, UNMAP 5.13.6.6.2, RESV_MEM 5.13.6.8.1.2. "Open": the section leaves it open.
 */
export class Requests {
  /** Flags that the negotiated features allow. */
  attachFlags = 0;
  mapFlags = READ_AND_WRITE;
  /** Whether MAP and UNMAP are available (5.13.6.5, 5.13.6.6). */
  mapUnmap = false;
  readonly #domains: Domains;
  readonly #granuleMask: number;

  constructor(domains: Domains) {
    this.#domains = domains;
    this.#granuleMask = 2 ** domains.limits.granuleLg2 - 1;
  }

  /** Whether a request reaches the hardware at once, and not with those around it. */
  isAlone(request: Int32Array): boolean {
    const type = request[0] & TYPE_MASK;
    return type === T_ATTACH || type === T_DETACH;
  }

  /** A request that is cut short but can be answered is INVAL; one of a type that is not known comes back unanswered (5.13.6.2). */
  execute(request: Int32Array, length: number): number {
    switch (request[0] & TYPE_MASK) {
      case T_ATTACH:
        return length < ATTACH_BYTES ? S_INVAL : this.#attach(request);
      case T_DETACH:
        return length < DETACH_BYTES ? S_INVAL : this.#detach(request);
      case T_MAP:
        if (!this.mapUnmap) return S_UNSUPP;
        return length < MAP_BYTES ? S_INVAL : this.#map(request);
      case T_UNMAP:
        if (!this.mapUnmap) return S_UNSUPP;
        return length < UNMAP_BYTES ? S_INVAL : this.#unmap(request);
      default:
        return S_NONE;
    }
  }

  /** What it refuses changes nothing. */
  #attach(request: Int32Array): number {
    const domains = this.#domains;
    const { limits } = domains;
    const flags = get(request, ATTACH.FLAGS);
    // ATTACH.1.
    if (get(request, ATTACH.RESERVED) !== 0) return S_INVAL;
    // ATTACH.2.
    if ((flags & ~this.attachFlags) !== 0) return S_INVAL;
    // ATTACH.3.
    const endpoint = domains.endpoints.get(get(request, ATTACH.ENDPOINT) >>> 0);
    if (endpoint === undefined) return S_NOENT;
    // Open: outside domain_range.
    const id = get(request, ATTACH.DOMAIN) >>> 0;
    if (id < limits.domains.first || id > limits.domains.last) return S_RANGE;
    // ATTACH.5.
    const bypass = (flags & ATTACH_F_BYPASS) !== 0;
    const existing = domains.get(id);
    if (existing !== undefined && existing.bypass !== bypass) return S_INVAL;
    // ATTACH.6: "another domain".
    if (existing !== undefined && existing === endpoint.domain) return S_OK;
    // ATTACH.7.
    if (existing?.maps(endpoint.reserved)) return S_UNSUPP;
    // Open: the limit of domains. The one that the endpoint leaves goes away with its last endpoint, and makes room.
    const leaving = endpoint.domain?.size === 1 ? 1 : 0;
    if (existing === undefined && domains.count - leaving >= limits.domainLimit) return S_NOMEM;
    // ATTACH.4, ATTACH.8: unless the hardware refuses.
    return domains.move(endpoint, existing ?? domains.create(id, bypass));
  }

  /** DETACH.1: `reserved` is not looked at. */
  #detach(request: Int32Array): number {
    // DETACH.2.
    const endpoint = this.#domains.endpoints.get(get(request, DETACH.ENDPOINT) >>> 0);
    if (endpoint === undefined) return S_NOENT;
    // DETACH.3.
    if (endpoint.domain === null || endpoint.domain.id !== get(request, DETACH.DOMAIN) >>> 0) return S_INVAL;
    return this.#domains.move(endpoint, null);
  }

  #map(request: Int32Array): number {
    const domains = this.#domains;
    const { input, mappingLimit } = domains.limits;
    const flags = request[FLAGS];
    // MAP.3.
    if ((flags & ~this.mapFlags) !== 0) return S_INVAL;
    // MAP.4.
    const domain = domains.get(request[DOMAIN] >>> 0);
    if (domain === undefined) return S_NOENT;
    // MAP.5.
    if (domain.bypass) return S_INVAL;
    // MAP.1: virt_end + 1 is aligned when the low bits of virt_end are all ones.
    if (((request[START_LO] | ~request[END_LO] | request[PHYS_LO]) & this.#granuleMask) !== 0) return S_RANGE;
    // Open: a range that ends before it begins, one outside input_range, one that ends past 2^64.
    const first = pfnOfHiLo(request[START_HI], request[START_LO]);
    const last = pfnOfHiLo(request[END_HI], request[END_LO]);
    const gpa = pfnOfHiLo(request[PHYS_HI], request[PHYS_LO]);
    if (last < first) return S_INVAL;
    if (first < input.first || last > input.last || gpa + (last - first) >= PAGES_END) return S_RANGE;
    // RESV_MEM.4.
    if (domain.reserves(first, last)) return S_INVAL;
    // Open: the limit of mappings.
    if (domains.mappings === mappingLimit) return S_NOMEM;
    // MAP.2; MAP.6 is `permission`.
    const permission = (flags & READ_AND_WRITE) | ((flags & F_MMIO) !== 0 ? TO_REGISTERS : 0);
    const slot = domains.map(domain, first, last, gpa, permission);
    if (slot >= 0) return DONE;
    return slot === INTERVAL_OVERLAP ? S_INVAL : S_NOMEM;
  }

  /** Whole mappings only; the range need not be pages. */
  #unmap(request: Int32Array): number {
    // UNMAP.1.
    if (request[UNMAP_RESERVED] !== 0) return S_INVAL;
    // UNMAP.2.
    const domain = this.#domains.get(request[DOMAIN] >>> 0);
    if (domain === undefined) return S_NOENT;
    // UNMAP.3.
    if (domain.bypass) return S_INVAL;
    // Open: a range that ends before it begins.
    const startLo = request[START_LO];
    const endLo = request[END_LO];
    const first = pfnOfHiLo(request[START_HI], startLo);
    const last = pfnOfHiLo(request[END_HI], endLo);
    if (last < first || (last === first && endLo >>> 0 < startLo >>> 0)) return S_INVAL;
    // UNMAP.4. A page that the range covers in part counts as one that it does not cover.
    const wholeFirst = (startLo & 0xfff) === 0 ? first : first + 1;
    const wholeEnd = (endLo & 0xfff) === 0xfff ? last + 1 : last;
    const { mappings } = domain;
    const low = mappings.lookup(first);
    if (low >= 0 && mappings.firstOf(low) < wholeFirst) return S_RANGE;
    const high = mappings.lookup(last);
    if (high >= 0 && mappings.firstOf(high) + mappings.pagesOf(high) > wholeEnd) return S_RANGE;
    // UNMAP.5.
    this.#domains.unmap(domain, first, last);
    return DONE;
  }
}
