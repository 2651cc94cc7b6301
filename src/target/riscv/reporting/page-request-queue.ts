import { hiOf, join, loOf } from '../../../memory/address.ts';
import { get, isSet, put } from '../../fields.ts';
import { NO_PASID } from '../../target.ts';
import type { Hpm } from '../control/hpm.ts';
import { Queue } from '../control/queue.ts';
import type { Registers } from '../control/registers.ts';
import { Cause, TransactionType } from '../spec/causes.ts';
import { PRGR_PAYLOAD } from '../spec/commands.ts';
import { PAGE_REQUEST, PAGE_REQUEST_LG2, PAGE_REQUEST_PAYLOAD as PAYLOAD } from '../spec/records.ts';
import { Csr, DdtMode, Interrupt, PQB, PQCSR, PQH, PQT } from '../spec/registers.ts';
import type { Structures } from '../structures.ts';
import { AtsCode, type AtsMessage } from '../surroundings.ts';
import type { InvalidationTags } from '../translation/ats.ts';
import type { Contexts } from '../translation/contexts.ts';
import type { FaultQueue } from './fault-queue.ts';
import type { Interrupts } from './interrupts.ts';

/** Response codes of a page request group response (PCI Express Base Specification 6.0, 10.4.2.1). */
const Response = { success: 0, invalidRequest: 1, failure: 0xf } as const;
/** The message was queued: no response of ours. */
const QUEUED = -1;

/** "Page-Request-Queue" and "PCIe ATS Page Request handling". */
export class PageRequestQueue {
  readonly queue: Queue;
  readonly #registers: Registers;
  readonly #structures: Structures;
  readonly #interrupts: Interrupts;
  readonly #contexts: Contexts;
  readonly #faults: FaultQueue;
  readonly #hpm: Hpm;
  readonly #tags: InvalidationTags;

  constructor(
    registers: Registers,
    structures: Structures,
    parts: {
      readonly interrupts: Interrupts;
      readonly contexts: Contexts;
      readonly faults: FaultQueue;
      readonly hpm: Hpm;
      readonly tags: InvalidationTags;
    },
  ) {
    this.queue = new Queue(registers, {
      base: PQB,
      software: PQH,
      device: PQT,
      csr: PQCSR,
      entryLg2: PAGE_REQUEST_LG2,
      clearable: Csr.memoryFault | Csr.overflow,
    });
    this.#registers = registers;
    this.#structures = structures;
    this.#interrupts = parts.interrupts;
    this.#contexts = parts.contexts;
    this.#faults = parts.faults;
    this.#hpm = parts.hpm;
    this.#tags = parts.tags;
  }

  /** A page request or stop marker from a device. */
  receive(message: AtsMessage): void {
    const device = message.requester | ((message.segment ?? 0) << 16);
    this.#hpm.begin(device, message.pasid ?? NO_PASID);
    const pasidRequired = { value: false };
    const response = this.#queueFor(message, device, pasidRequired);
    if (response !== QUEUED) this.#respond(message, response, pasidRequired.value);
  }

  #queueFor(message: AtsMessage, device: number, pasidRequired: { value: boolean }): number {
    const { mode } = this.#registers;
    if (mode === DdtMode.off) return this.#refuse(message, device, Cause.allDisallowed, false);
    if (mode === DdtMode.bare) return this.#refuse(message, device, Cause.typeDisallowed, false);
    const context = this.#contexts.device(device);
    if (context === null) return this.#refuse(message, device, this.#contexts.cause, false);
    pasidRequired.value = context.prpr;
    if (!context.pri) return this.#refuse(message, device, Cause.typeDisallowed, context.quiet);
    return this.#append(message, device);
  }

  /** The fault is logged; the response is Invalid Request for cause 260, otherwise Response Failure. */
  #refuse(message: AtsMessage, device: number, cause: number, suppressed: boolean): number {
    this.#faults.report({
      cause,
      type: TransactionType.message,
      device,
      process: message.pasid,
      privileged: message.privileged,
      suppressed,
      iotvalHi: 0,
      iotvalLo: AtsCode.pageRequest,
      iotval2Hi: 0,
      iotval2Lo: 0,
    });
    return cause === Cause.typeDisallowed ? Response.invalidRequest : Response.failure;
  }

  #append(message: AtsMessage, device: number): number {
    const { queue } = this;
    const { words } = this.#structures;
    if (!queue.isOn || queue.has(Csr.memoryFault)) return Response.failure;
    if (queue.has(Csr.overflow)) return Response.success;
    if (queue.isFull) {
      queue.setBits(Csr.overflow);
      this.#interrupts.raise(Interrupt.page);
      return Response.success;
    }
    words.fill(0, 0, 4);
    put(words, PAGE_REQUEST.DID, device);
    if (message.pasid !== null) {
      put(words, PAGE_REQUEST.PID, message.pasid);
      put(words, PAGE_REQUEST.PV, 1);
      put(words, PAGE_REQUEST.PRIV, message.privileged ? 1 : 0);
      put(words, PAGE_REQUEST.EXEC, message.execute ? 1 : 0);
    }
    put(words, PAGE_REQUEST.PAYLOAD_LO, loOf(message.payload));
    put(words, PAGE_REQUEST.PAYLOAD_HI, hiOf(message.payload));
    queue.locate();
    const written = this.#structures.write(queue.entryHi, queue.entryLo, 2, this.#registers.bigEndian);
    if (written) queue.advance();
    else queue.setBits(Csr.memoryFault);
    this.#interrupts.raise(Interrupt.page);
    return written ? QUEUED : Response.failure;
  }

  /** Requests that are not the last of their group, and stop markers (L without R and W), get no response. */
  #respond(message: AtsMessage, response: number, pasidRequired: boolean): void {
    const request = [loOf(message.payload), hiOf(message.payload)];
    if (!isSet(request, PAYLOAD.L) || !(isSet(request, PAYLOAD.R) || isSet(request, PAYLOAD.W))) return;
    const answer = new Int32Array(2);
    put(answer, PRGR_PAYLOAD.DESTINATION, message.requester);
    put(answer, PRGR_PAYLOAD.CODE, response);
    put(answer, PRGR_PAYLOAD.PRGI, get(request, PAYLOAD.PRGI));
    const pasid = response === Response.failure || pasidRequired ? message.pasid : null;
    this.#tags.respond(message.requester, message.segment, pasid, join(answer));
  }

  writeCsr(value: number): void {
    this.queue.writeCsr(value);
    this.#interrupts.recheck(Interrupt.page);
  }
}
