import { EXECUTE, PRIVILEGED, READ, WRITE } from '../../../memory/access.ts';
import { put, putWide } from '../../fields.ts';
import { CLASS, EVENT, RECORD } from '../spec/events.ts';
import type { Interrupts } from './interrupts.ts';
import type { OutputQueue } from './output-queue.ts';

/** Why a request did not get through. */
export interface Fault {
  /** EVENT. */
  readonly number: number;
  readonly s2?: boolean;
  /** CLASS. */
  readonly on?: number;
  /** CLASS TT: that the table be read, not updated. */
  readonly tableRead?: boolean;
  /** The byte address that stage 2 refused, or that could not be read. */
  readonly address?: number;
}

/** A request as it is recorded; `access` after the overrides of its stream table entry. */
export interface Request {
  readonly stream: number;
  /** -1: none. */
  readonly substream: number;
  readonly hi: number;
  readonly lo: number;
  readonly access: number;
}

const { F_STE_FETCH, C_BAD_SUBSTREAMID, F_CD_FETCH, F_WALK_EABT, F_STREAM_DISABLED } = EVENT;
const { F_TRANSLATION, F_PERMISSION, F_TRANSL_FORBIDDEN, F_BAD_ATS_TREQ } = EVENT;

/** Translation-related faults, 5.5: those that A, R and S decide about. */
export function isTranslationFault(number: number): boolean {
  return number >= F_TRANSLATION && number <= F_PERMISSION;
}

/** Event records, 7.3. */
export class Events {
  readonly #queue: OutputQueue;
  readonly #interrupts: Interrupts;
  readonly #words = new Int32Array(8);

  constructor(queue: OutputQueue, interrupts: Interrupts) {
    this.#queue = queue;
    this.#interrupts = interrupts;
  }

  /** Whether a stall could be told of (7.2.1). */
  get isWritable(): boolean {
    return this.#queue.isWritable;
  }

  /** `stag`: of a request that stalls; -1: it is terminated. */
  record(fault: Fault, request: Request, stag = -1): void {
    const words = this.#words.fill(0);
    const { number } = fault;
    put(words, RECORD.NUMBER, number);
    put(words, RECORD.STREAM, request.stream);
    if (request.substream >= 0 && number !== F_STREAM_DISABLED) {
      put(words, RECORD.SUBSTREAM, request.substream);
      if (number !== C_BAD_SUBSTREAMID) put(words, RECORD.SSV, 1);
    }
    if (fault.address !== undefined) putWide(words, RECORD.IPA, Math.floor(fault.address / 4096));
    if (number === F_STE_FETCH || number === F_CD_FETCH || number === F_WALK_EABT)
      putWide(words, RECORD.FETCH, Math.floor((fault.address ?? 0) / 8));
    if (number >= F_WALK_EABT || number === F_TRANSL_FORBIDDEN) this.#access(fault, request);
    if (number === F_BAD_ATS_TREQ) this.#asked(request);
    if (stag >= 0) {
      put(words, RECORD.STALL, 1);
      put(words, RECORD.STAG, stag);
    }
    this.#append(words);
  }

  /** A record that hardware of the same kind wrote, its stream the guest's. */
  pass(words: Int32Array): void {
    this.#append(this.#words.fill(0).map((_, i) => words[i] ?? 0));
  }

  /** Records of that hardware were lost: as if the queue had had no room (7.4). */
  lost(): void {
    if (this.#queue.isOn) this.#queue.overflow();
  }

  #access({ number, s2 = false, on = CLASS.IN, tableRead = false }: Fault, { hi, lo, access }: Request): void {
    const words = this.#words;
    const writes = (access & WRITE) !== 0;
    put(words, RECORD.INPUT_LOW, lo);
    put(words, RECORD.INPUT_HIGH, hi);
    put(words, RECORD.RNW, Number(!writes));
    if (number === F_TRANSL_FORBIDDEN) return;
    put(words, RECORD.PNU, Number((access & PRIVILEGED) !== 0));
    put(words, RECORD.IND, Number(!writes && (access & EXECUTE) !== 0));
    put(words, RECORD.S2, Number(s2));
    put(words, RECORD.CLASS, on);
    if (number === F_PERMISSION && on === CLASS.TT) put(words, RECORD.TTRNW, Number(tableRead));
  }

  /** What a translation request asks for: one unit, and permissions before the overrides of its stream table entry (7.3.6). */
  #asked({ hi, lo, access }: Request): void {
    const words = this.#words;
    words[4] = lo & ~0xfff;
    words[5] = hi;
    put(words, RECORD.SPAN, 1);
    put(words, RECORD.ASKED_R, Number((access & READ) !== 0));
    put(words, RECORD.ASKED_W, Number((access & WRITE) !== 0));
    put(words, RECORD.ASKED_X, Number((access & EXECUTE) !== 0));
    put(words, RECORD.ASKED_P, Number((access & PRIVILEGED) !== 0));
  }

  #append(words: Int32Array): void {
    const queue = this.#queue;
    if (!queue.isOn) return;
    if (queue.isFull) {
      queue.overflow();
      return;
    }
    const wasEmpty = queue.isEmpty;
    if (queue.append(words) && wasEmpty) this.#interrupts.events();
  }
}
