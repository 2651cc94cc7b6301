import { isSet, put, putWide } from '../../fields.ts';
import type { Registers } from '../control/registers.ts';
import { PRG_RESPONSE, PRI } from '../spec/events.ts';
import { CR2, PRIQ_IRQ_CFG2, REG } from '../spec/registers.ts';
import { STE } from '../spec/ste.ts';
import type { PageRequest, PageResponse } from '../surroundings.ts';
import type { Configurations } from '../translation/configurations.ts';
import { StreamEntry } from '../translation/stream-entry.ts';
import type { Interrupts } from './interrupts.ts';
import type { OutputQueue } from './output-queue.ts';
import type { Refusals } from './refusals.ts';

interface Parts {
  readonly registers: Registers;
  readonly queue: OutputQueue;
  readonly interrupts: Interrupts;
  readonly configurations: Configurations;
  readonly refusals: Refusals;
  respond(response: PageResponse): void;
}

/** Page requests, chapter 8. */
export class PageRequests {
  readonly #parts: Parts;
  readonly #words = new Int32Array(4);

  constructor(parts: Parts) {
    this.#parts = parts;
  }

  /** 8.2: SMMUEN = 0 implies PRIQEN = 0. */
  get isOn(): boolean {
    return this.#parts.registers.isOn && this.#parts.queue.isOn;
  }

  receive(asked: PageRequest): void {
    const { registers, queue, interrupts } = this.#parts;
    // Chapter 8, SSV: without substreams nothing has a PASID.
    const request = registers.features.SSIDSIZE === 0 ? { ...asked, pasid: null } : asked;
    // The marker that a PASID has stopped, which nobody answers.
    const isMarker = request.last && !request.read && !request.write && request.pasid !== null;
    if (!this.isOn) {
      if (!isMarker) this.#respond(request, null, PRG_RESPONSE.failure);
      return;
    }
    const byLast = isSet(registers.view(REG.PRIQ_IRQ_CFG2), PRIQ_IRQ_CFG2.LO);
    const wasEmpty = queue.isEmpty;
    // 8.1: until the guest has acknowledged an overflow nothing is written.
    const isLost = queue.hasOverflowed || queue.isFull;
    if (isLost) {
      queue.overflow();
      if (request.last && !isMarker) this.#respondToLost(request);
    } else if (!queue.append(this.#record(request))) {
      if (!isMarker) this.#respond(request, null, PRG_RESPONSE.failure);
      return;
    }
    if (byLast ? request.last : wasEmpty && !isLost) interrupts.pageRequests();
  }

  #record({ stream, pasid, page, read, write, execute, privileged, group, last }: PageRequest): Int32Array {
    const words = this.#words.fill(0);
    put(words, PRI.STREAM, stream);
    if (pasid !== null) {
      put(words, PRI.SSV, 1);
      put(words, PRI.SUBSTREAM, pasid);
      put(words, PRI.EXECUTE, Number(execute));
      put(words, PRI.PRIVILEGED, Number(privileged));
    }
    put(words, PRI.READ, Number(read));
    put(words, PRI.WRITE, Number(write));
    put(words, PRI.LAST, Number(last));
    put(words, PRI.GROUP, group);
    putWide(words, PRI.PAGE, page);
    return words;
  }

  /** 8.1: success, with the PASID if IDR3.PPS or STE.PPAR says so; failure where the entry cannot be asked. */
  #respondToLost(request: PageRequest): void {
    const { registers, configurations, refusals } = this.#parts;
    if (request.pasid === null || registers.features.PPS === 1) {
      this.#respond(request, request.pasid, PRG_RESPONSE.success);
      return;
    }
    const entry = configurations.entry(request.stream);
    if (entry instanceof StreamEntry) {
      this.#respond(request, isSet(entry.words, STE.PPAR) ? request.pasid : null, PRG_RESPONSE.success);
      return;
    }
    if (registers.cr2(CR2.REC_CFG_ATS))
      refusals.configuration(entry, { stream: request.stream, substream: request.pasid, hi: 0, lo: 0, access: 0 });
    this.#respond(request, null, PRG_RESPONSE.failure);
  }

  #respond({ stream, group }: PageRequest, pasid: number | null, response: number): void {
    this.#parts.respond({ stream, pasid, group, response });
  }
}
