import { EXECUTE, READ, READ_WRITE, WRITE } from '../../memory/access.ts';
import { hiOfPfn, loOfPfn, PAGE_LG2, pfnOfHiLo } from '../../memory/address.ts';
import { type Iotlb, NO_CONTEXT } from '../../memory/iotlb.ts';
import { targetFault } from '../fault-codes.ts';
import type { Domain } from './domain.ts';
import type { Domains } from './domains.ts';
import type { Endpoint } from './endpoint.ts';
import type { FaultQueue } from './fault-queue.ts';
import { FAULT_F_READ, FAULT_F_WRITE, FAULT_R_DOMAIN, FAULT_R_MAPPING, FAULT_R_UNKNOWN } from './spec/fault.ts';

/** lg2 of the bytes that one answer in bypass mode speaks for: any would be true. */
const IDENTITY_LG2 = 30;
/** The largest that the IOTLB holds. */
const LARGEST_LG2 = 63;

/** Accesses of endpoints (5.13.5, 5.13.6.9): where they go, by the IOTLB or the domain's mappings, and the reports of those that may not. */
export class Translator {
  readonly #domains: Domains;
  readonly #iotlb: Iotlb;
  readonly #faults: FaultQueue;
  /** Where the last one went. */
  readonly translated: Int32Array;

  constructor(domains: Domains, iotlb: Iotlb, faults: FaultQueue) {
    this.#domains = domains;
    this.#iotlb = iotlb;
    this.#faults = faults;
    this.translated = iotlb.out;
  }

  translate(endpoint: number, pasid: number, hi: number, lo: number, access: number): number {
    const wish = (access & READ_WRITE) | ((access & EXECUTE) !== 0 ? READ : 0);
    const lg2 = this.#iotlb.lookupFor(endpoint, pasid, hi, lo, wish);
    return lg2 >= 0 ? lg2 : this.#translateOther(endpoint, pasid, hi, lo, wish);
  }

  #translateOther(endpoint: number, pasid: number, hi: number, lo: number, wish: number): number {
    const known = this.#domains.endpoints.get(endpoint);
    if (known === undefined) return targetFault('virtio-iommu', FAULT_R_UNKNOWN);
    // The specification knows no process address spaces: what carries a PASID is not mapped.
    if (pasid >= 0) return this.#fault(FAULT_R_UNKNOWN, wish, known, hi, lo);
    const domain = known.domain;
    if (domain === null || domain.bypass) {
      if (domain === null && !this.#domains.bypass) return this.#fault(FAULT_R_DOMAIN, wish, known, hi, lo);
      return this.#identity(hi, lo, IDENTITY_LG2);
    }
    const lg2 = this.#iotlb.lookup(domain.tag, NO_CONTEXT, hi, lo, wish);
    this.#iotlb.serve(endpoint, pasid);
    return lg2 >= 0 ? lg2 : this.#lookup(known, domain, wish, hi, lo);
  }

  /** What the IOTLB does not hold. */
  #lookup(endpoint: Endpoint, domain: Domain, wish: number, hi: number, lo: number): number {
    this.#iotlb.misses++;
    const pfn = pfnOfHiLo(hi, lo);
    const mappings = domain.mappings;
    const slot = mappings.lookup(pfn);
    // The doorbell of MSIs lies in front of the translation (5.13.6.8.1).
    if (slot < 0 && endpoint.reserved.isMsi(pfn)) return this.#identity(hi, lo, PAGE_LG2);
    const permission = slot < 0 ? 0 : mappings.permissionOf(slot);
    if (slot < 0 || (wish & ~permission) !== 0) return this.#fault(FAULT_R_MAPPING, wish, endpoint, hi, lo);
    const first = mappings.firstOf(slot);
    const lg2 = blockLg2(pfn, first, mappings.pagesOf(slot), mappings.valueOf(slot) - first);
    const gpa = mappings.valueOf(slot) + (pfn - first);
    const out = this.#iotlb.out;
    out[0] = loOfPfn(gpa) | (lo & 0xfff);
    out[1] = hiOfPfn(gpa);
    out[2] = permission & READ_WRITE;
    this.#iotlb.fill(domain.tag, NO_CONTEXT, hi, lo, lg2, out);
    return lg2;
  }

  #identity(hi: number, lo: number, lg2: number): number {
    this.translated[0] = lo;
    this.translated[1] = hi;
    return lg2;
  }

  #fault(reason: number, wish: number, endpoint: Endpoint, hi: number, lo: number): number {
    const flags = ((wish & READ) !== 0 ? FAULT_F_READ : 0) | ((wish & WRITE) !== 0 ? FAULT_F_WRITE : 0);
    this.#faults.report(reason, flags, endpoint.id, hi, lo);
    return targetFault('virtio-iommu', reason);
  }
}

/** lg2 of the largest aligned block around a page that a mapping holds whole, at an output with the same alignment; half of all there is at most. */
function blockLg2(pfn: number, first: number, pages: number, shift: number): number {
  let lg2 = PAGE_LG2;
  for (let size = 2; size <= pages && lg2 < LARGEST_LG2; size *= 2, lg2++) {
    const start = pfn - (pfn % size);
    if (start < first || start + size > first + pages || shift % size !== 0) break;
  }
  return lg2;
}
