import { LOADED } from '../../../memory/loaded.ts';
import { get } from '../../fields.ts';
import { Remainder } from '../../remainder.ts';
import type { FaultLog } from '../reporting/fault-log.ts';
import { TYPE_HIGH, Type } from '../spec/descriptors.ts';
import { QueueError, TTM_LEGACY, TTM_RESERVED, TTM_SCALABLE } from '../spec/registers.ts';
import { BEHIND, type DescriptorParts, Descriptors, DONE, WAITS } from './descriptors.ts';
import type { Invalidations } from './invalidations.ts';

/** LOADED, here because the compiler folds a module's own constants only. */
const word = LOADED;

/**
 * What each descriptor touches, as spec/registers.ts declares it, offsets in words; here because the compiler folds a module's own
 * constants only.
 */
const GSTS = 0x1c / 4;
const QIE = 1 << 26;
const FSTS = 0x34 / 4;
const IQE_ITE = (1 << 4) | (1 << 6);
const IQH = 0x80 / 4;
const IQT = 0x88 / 4;
const IQA = 0x90 / 4;
const QS = 7;
const DW = 1 << 11;
const QUEUE_OFFSET = 0x7fff0;
/** The same of spec/descriptors.ts: type, granularity and reserved bits of page-selective invalidations, and their fields. */
const TYPE_LOW = 0xf;
const IOTLB = 2;
const IOTLB_CHECKED = 0xff3f;
const IOTLB_PAGES = 0x32;
const PASID_IOTLB_CHECKED = 0xffff;
const PASID_IOTLB_PAGES = 0x36;
const PASID_BITS = 20;
const DID_SHIFT = 16;
const AM_MASK = 0x3f;
const ADDRESS_RESERVED = 0xf80;
const MAMV = 18;
/** For the test that compares them with their declaration. */
export const REPEATED = {
  registers: { GSTS, QIE, FSTS, IQE_ITE, IQH, IQT, IQA, QS, DW, QUEUE_OFFSET },
  descriptors: { TYPE_LOW, IOTLB, IOTLB_CHECKED, IOTLB_PAGES, PASID_IOTLB_CHECKED, PASID_IOTLB_PAGES },
  fields: { PASID_BITS, DID_SHIFT, AM_MASK, ADDRESS_RESERVED, MAMV },
} as const;

export interface QueueParts extends DescriptorParts {
  readonly faults: FaultLog;
}

/** At most in one go: a queue of the largest size with 128-bit descriptors. */
const DESCRIPTORS_PER_ACCESS = 1 << 15;

/** The invalidation queue (6.5.2): descriptors in order, and its errors (6.5.2.11). */
export class InvalidationQueue {
  readonly #parts: QueueParts;
  /** Of the registers. */
  readonly #words: Int32Array;
  readonly #descriptors: Descriptors;
  readonly #invalidations: Invalidations;
  readonly #memory: QueueParts['surroundings']['memory'];
  readonly #remainder: Remainder;
  #running = false;

  constructor(parts: QueueParts) {
    this.#parts = parts;
    this.#remainder = new Remainder(() => this.run(), parts.surroundings.schedule);
    this.#words = parts.registers.words;
    this.#descriptors = new Descriptors(parts);
    this.#invalidations = parts.invalidations;
    this.#memory = parts.surroundings.memory;
  }

  /** Whether there is something to fetch, or to complain of; an error of the queue, or a time-out, that is pending stops it (6.5.2). */
  get isRunnable(): boolean {
    const words = this.#words;
    return (words[GSTS] & QIE) !== 0 && words[IQH] !== words[IQT] && (words[FSTS] & IQE_ITE) === 0;
  }

  /** Processes what is there, as much as one access may; the rest follows by itself. */
  run(): void {
    if (this.#running || !this.isRunnable) return;
    const { faults, spaces } = this.#parts;
    const error = this.#checkQueue();
    if (error !== DONE) {
      faults.queueError(error);
      return;
    }
    this.#running = true;
    spaces.beginQueue();
    const words = this.#words;
    const wide = (words[IQA] & DW) !== 0;
    const bytes = wide ? 32 : 16;
    const inQueue = this.#bytes() - 1;
    // 11.4.9.1: of 256-bit descriptors bit 4 is reserved.
    if (wide) words[IQH] &= ~16;
    let left = DESCRIPTORS_PER_ACCESS;
    let waits = false;
    let isBehind = false;
    while (left > 0 && this.isRunnable && !spaces.isSpent && !waits && !isBehind) {
      const usual = spaces.isObserved ? 0 : this.#runUsual(left, inQueue, wide);
      left -= usual;
      if (usual > 0) continue;
      const head = words[IQH];
      const result = this.#fetch(head, wide) ? this.#descriptors.execute() : QueueError.fetch;
      waits = result === WAITS;
      isBehind = result === BEHIND;
      if (result === DONE) words[IQH] = (head + bytes) & inQueue;
      else if (result > DONE) faults.queueError(result);
      left--;
    }
    isBehind = !spaces.endQueue();
    this.#running = false;
    if (isBehind || (this.isRunnable && !waits)) this.#remainder.later();
  }

  /** A device did not answer in time: the wait descriptor that waits for it is given up, and tells nobody (6.5.2.11, ITE). */
  abortWait(): void {
    const words = this.#words;
    if (!this.isRunnable || this.#checkQueue() !== DONE) return;
    const wide = (words[IQA] & DW) !== 0;
    const head = words[IQH];
    if (!this.#fetch(head, wide)) return;
    const descriptor = this.#descriptors.words;
    const isWait = get(descriptor, TYPE_HIGH) === 0 && (descriptor[0] & TYPE_LOW) === Type.wait;
    if (isWait) words[IQH] = (head + (wide ? 32 : 16)) & (this.#bytes() - 1);
  }

  #bytes(): number {
    return 4096 << (this.#words[IQA] & QS);
  }

  /** Errors of the queue as it is programmed (IQEI 7, 5, 6, 1). */
  #checkQueue(): number {
    const words = this.#words;
    const { registers, choices } = this.#parts;
    const { mode } = registers;
    const wide = (words[IQA] & DW) !== 0;
    if (mode === TTM_RESERVED || (mode === TTM_SCALABLE && !choices.scalableMode)) return QueueError.mode;
    if (!wide && mode !== TTM_LEGACY) return QueueError.width;
    const tail = words[IQT];
    if (wide && (tail & 16) !== 0) return QueueError.misalignedTail;
    return tail >= this.#bytes() ? QueueError.invalidTail : DONE;
  }

  /**
   * The usual descriptors in a straight line: pages of the IOTLB, with PASID or without, and nothing reserved in them, while nobody
   * observes, so that registers stay what they are. Ends before another one, which is `#fetch`ed again. Returns how many there were.
   */
  #runUsual(limit: number, inQueue: number, wide: boolean): number {
    const registers = this.#words;
    const memory = this.#memory;
    const invalidations = this.#invalidations;
    const bytes = wide ? 32 : 16;
    const withPasid = wide && !this.#parts.registers.isLegacy;
    const base = registers[IQA] & ~0xfff;
    const baseHi = registers[IQA + 1];
    const tail = registers[IQT];
    let head = registers[IQH];
    let done = 0;
    for (; done < limit && head !== tail; done++) {
      const lo = (base + head) | 0;
      const hi = baseHi + (base >>> 0 > lo >>> 0 ? 1 : 0);
      if (memory.load64(hi, lo) < 0) break;
      const low = word[0];
      const pasid = word[1];
      if ((low & IOTLB_CHECKED) === IOTLB_PAGES) {
        if (pasid !== 0) break;
      } else if (!withPasid || (low & PASID_IOTLB_CHECKED) !== PASID_IOTLB_PAGES || pasid >>> PASID_BITS !== 0) break;
      if (memory.load64(hi, lo | 8) < 0) break;
      const addressLo = word[0];
      const addressHi = word[1];
      const mask = addressLo & AM_MASK;
      if ((addressLo & ADDRESS_RESERVED) !== 0 || (wide && !this.#isClear(hi, lo | 16))) break;
      if ((low & TYPE_LOW) !== IOTLB) invalidations.processPages(low >>> DID_SHIFT, pasid, addressHi, addressLo, mask);
      else if (mask <= MAMV) invalidations.pages(low >>> DID_SHIFT, addressHi, addressLo, mask);
      else break;
      head = (head + bytes) & inQueue;
    }
    registers[IQH] = head;
    return done;
  }

  /** Whether 128 bits of memory are 0. */
  #isClear(hi: number, lo: number): boolean {
    const memory = this.#memory;
    if (memory.load64(hi, lo) < 0 || (word[0] | word[1]) !== 0) return false;
    return memory.load64(hi, lo | 8) >= 0 && (word[0] | word[1]) === 0;
  }

  #fetch(head: number, wide: boolean): boolean {
    const registers = this.#words;
    const { memory } = this.#parts.surroundings;
    const { words } = this.#descriptors;
    const base = registers[IQA] & ~0xfff;
    // The queue is aligned to 4 KiB only: its end may lie above the next multiple of 4 GiB.
    const lo = (base + (head & QUEUE_OFFSET)) | 0;
    const hi = registers[IQA + 1] + (base >>> 0 > lo >>> 0 ? 1 : 0);
    if (memory.load64(hi, lo) < 0) return false;
    words[0] = word[0];
    words[1] = word[1];
    if (memory.load64(hi, lo + 8) < 0) return false;
    words[2] = word[0];
    words[3] = word[1];
    if (!wide) return true;
    if (memory.load64(hi, lo + 16) < 0) return false;
    words[4] = word[0];
    words[5] = word[1];
    if (memory.load64(hi, lo + 24) < 0) return false;
    words[6] = word[0];
    words[7] = word[1];
    return true;
  }
}
