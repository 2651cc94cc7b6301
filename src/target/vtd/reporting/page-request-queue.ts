import { hiOf, loOf } from '../../../memory/address.ts';
import { put } from '../../fields.ts';
import { NO_PASID } from '../../target.ts';
import type { Invalidations } from '../control/invalidations.ts';
import type { Registers } from '../control/registers.ts';
import type { Spaces } from '../spaces.ts';
import { Fault } from '../spec/faults.ts';
import { PAGE_REQUEST, PAGE_REQUEST_BYTES, PAGE_REQUEST_TYPE, ResponseCode } from '../spec/page-requests.ts';
import { PageRequestStatus, PQA, PQA_PQS, PQH, PQT, PRS } from '../spec/registers.ts';
import type { VtdSurroundings } from '../surroundings.ts';
import type { Contexts } from '../translation/contexts.ts';
import type { Stages } from '../translation/stages.ts';
import type { Event } from './event.ts';
import { type FaultLog, RequestType } from './fault-log.ts';

/** A page request of a device (PCIe PRI). */
export interface PageRequest {
  readonly device: number;
  /** null: without PASID. */
  readonly pasid: number | null;
  /** Its low 12 bits do not count. */
  readonly address: bigint;
  readonly read: boolean;
  readonly write: boolean;
  readonly execute?: boolean;
  readonly privileged?: boolean;
  /** Page request group index, 9 bits. */
  readonly group: number;
  /** Last of its group: it wants a response. */
  readonly last: boolean;
}

export interface PageRequestParts {
  readonly registers: Registers;
  readonly surroundings: VtdSurroundings;
  readonly contexts: Contexts;
  readonly invalidations: Invalidations;
  readonly spaces: Spaces;
  readonly faults: FaultLog;
  readonly event: Event;
}

const QUEUED = -1;

/** The page request queue (7.4). */
export class PageRequestQueue {
  readonly #parts: PageRequestParts;
  readonly #words = new Int32Array(PAGE_REQUEST_BYTES / 4);

  constructor(parts: PageRequestParts) {
    this.#parts = parts;
  }

  receive(request: PageRequest): void {
    const code = this.#queue(request);
    const { device, pasid, group, last, read, write } = request;
    // That a PASID has stopped wants no response (PCIe 10.4.1.2.1); table 31: what is in the queue is answered by software.
    const isStopMarker = pasid !== null && !read && !write;
    if (code !== QUEUED && last && !isStopMarker) this.#parts.spaces.answer({ device, pasid, group, code });
  }

  /** QUEUED, or the response code with which the unit answers by itself. */
  #queue(request: PageRequest): number {
    const { registers } = this.#parts;
    const stages = this.#stagesOf(request);
    if (stages === null) return ResponseCode.invalidRequest;
    if ((registers.get(PRS) & PageRequestStatus.PRO) !== 0) return ResponseCode.success;
    const bytes = 4096 << (registers.get(PQA) & PQA_PQS);
    const tail = registers.get(PQT) % bytes;
    const next = (tail + PAGE_REQUEST_BYTES) % bytes;
    if (next === registers.get(PQH) % bytes) {
      this.#setStatus(PageRequestStatus.PRO);
      return ResponseCode.success;
    }
    this.#invalidate(stages, request);
    if (!this.#write(request, tail)) return ResponseCode.invalidRequest;
    registers.set(PQT, next);
    this.#setStatus(PageRequestStatus.PPR);
    return QUEUED;
  }

  /** null: the request cannot be traced to its tables, which is a fault of its own (table 30). */
  #stagesOf({ device, pasid, address, privileged = false, execute = false }: PageRequest): Stages | null {
    const { registers, contexts, faults } = this.#parts;
    const process = pasid ?? NO_PASID;
    let reason = 0;
    let suppressed = false;
    const stages = registers.isLegacy ? null : contexts.find(device, process);
    if (registers.isLegacy) reason = Fault['RTA.3'];
    else if (stages === null) {
      ({ reason, suppressed } = contexts);
    } else if (!stages.pageRequests) {
      reason = Fault['SCT.8'];
      ({ suppressed } = stages);
    }
    if (reason === 0) return stages;
    const from = { device, pasid: process, hi: hiOf(address), lo: loOf(address), privileged, execute };
    faults.record(reason, suppressed, { ...from, type: RequestType.pageRequest, addressType: 0 });
    return null;
  }

  /** 6.5.3.1, table 27. */
  #invalidate({ domain, pasid, first, second }: Stages, { address }: PageRequest): void {
    const { invalidations } = this.#parts;
    if (first !== null && second !== null) invalidations.domain(domain);
    else if (first !== null) invalidations.processPages(domain, pasid, hiOf(address), loOf(address), 0);
    else invalidations.pages(domain, hiOf(address), loOf(address), 0);
  }

  #write(request: PageRequest, tail: number): boolean {
    const { registers, surroundings } = this.#parts;
    const words = this.#words.fill(0);
    put(words, PAGE_REQUEST.TYPE, PAGE_REQUEST_TYPE);
    put(words, PAGE_REQUEST.RID, request.device);
    if (request.pasid !== null) {
      put(words, PAGE_REQUEST.PP, 1);
      put(words, PAGE_REQUEST.PASID, request.pasid);
      put(words, PAGE_REQUEST.EXR, Number(request.execute ?? false));
      put(words, PAGE_REQUEST.PMR, Number(request.privileged ?? false));
    }
    put(words, PAGE_REQUEST.RDR, Number(request.read));
    put(words, PAGE_REQUEST.WRR, Number(request.write));
    put(words, PAGE_REQUEST.LPIG, Number(request.last));
    put(words, PAGE_REQUEST.PRGI, request.group);
    put(words, PAGE_REQUEST.ADDR_LO, loOf(request.address) >>> 12);
    put(words, PAGE_REQUEST.ADDR_HI, hiOf(request.address));
    const base = (registers.get(PQA + 4) >>> 0) * 0x1_0000_0000 + ((registers.get(PQA) & ~0xfff) >>> 0) + tail;
    for (let at = 0; at < words.length; at += 2) {
      const address = base + 4 * at;
      if (surroundings.memory.store64(Math.floor(address / 0x1_0000_0000), address | 0, words[at + 1], words[at]) < 0) return false;
    }
    return true;
  }

  /** 7.5: an event is generated where none of both conditions was pending. */
  #setStatus(bit: number): void {
    const { registers, event } = this.#parts;
    const pending = registers.get(PRS) !== 0;
    registers.change(PRS, 0, bit);
    if (!pending) event.raise();
  }
}
