import { LOADED } from '../../../memory/loaded.ts';
import { CommandsAhead } from '../../commands-ahead.ts';
import { get } from '../../fields.ts';
import { Remainder } from '../../remainder.ts';
import type { FaultLog } from '../reporting/fault-log.ts';
import { TYPE_HIGH, TYPE_LOW, Type } from '../spec/descriptors.ts';
import { QueueError, TTM_LEGACY, TTM_RESERVED, TTM_SCALABLE } from '../spec/registers.ts';
import { BEHIND, type DescriptorParts, Descriptors, DONE, WAITS } from './descriptors.ts';
import { PageDescriptors } from './page-descriptors.ts';

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
/** For the test that compares them with their declaration. */
export const REPEATED = { GSTS, QIE, FSTS, IQE_ITE, IQH, IQT, IQA, QS, DW, QUEUE_OFFSET } as const;

export interface QueueParts extends DescriptorParts {
  readonly faults: FaultLog;
}

/** At most in one go: a queue of the largest size with 128-bit descriptors. */
const DESCRIPTORS_PER_ACCESS = 1 << 15;

/** lg2 of the bytes of a descriptor, of 128 and of 256 bits. */
const NARROW_LG2 = 4;
const WIDE_LG2 = 5;

/** The invalidation queue (6.5.2): descriptors in order, and its errors (6.5.2.11). */
export class InvalidationQueue {
  readonly #parts: QueueParts;
  /** Of the registers. */
  readonly #words: Int32Array;
  readonly #descriptors: Descriptors;
  readonly #narrow: CommandsAhead;
  readonly #wide: CommandsAhead;
  readonly #memory: QueueParts['surroundings']['memory'];
  readonly #remainder: Remainder;
  #running = false;

  constructor(parts: QueueParts) {
    this.#parts = parts;
    this.#remainder = new Remainder(() => this.run(), parts.surroundings.schedule);
    this.#words = parts.registers.words;
    this.#descriptors = new Descriptors(parts);
    this.#memory = parts.surroundings.memory;
    this.#narrow = new CommandsAhead(this.#memory, new PageDescriptors(parts.registers, parts.invalidations, false), NARROW_LG2);
    this.#wide = new CommandsAhead(this.#memory, new PageDescriptors(parts.registers, parts.invalidations, true), WIDE_LG2);
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
      if (!spaces.isObserved) left -= this.#runUsual(left, inQueue, wide);
      if (left === 0 || !this.isRunnable) break;
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
    const isWait = get(descriptor, TYPE_HIGH) === 0 && get(descriptor, TYPE_LOW) === Type.wait;
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

  /** Carries out the usual descriptors from the head on, `limit` at most, up to another one. Returns how many there were. */
  #runUsual(limit: number, inQueue: number, wide: boolean): number {
    const registers = this.#words;
    const lg2 = wide ? WIDE_LG2 : NARROW_LG2;
    const mask = inQueue >> lg2;
    const head = registers[IQH] >> lg2;
    // A queue that became smaller than the head: where the next one is read from, `#fetch` says.
    if (head > mask) return 0;
    const most = Math.min(limit, ((registers[IQT] >> lg2) - head) & mask);
    const usual = (wide ? this.#wide : this.#narrow).run(registers[IQA + 1], registers[IQA] & ~0xfff, mask, head, most);
    registers[IQH] = ((head + usual) & mask) << lg2;
    return usual;
  }

  /** Where in memory a descriptor is: the queue is aligned to 4 KiB only, so its end may lie above the next multiple of 4 GiB. */
  #loOf(head: number): number {
    return ((this.#words[IQA] & ~0xfff) + (head & QUEUE_OFFSET)) | 0;
  }

  #hiOf(head: number): number {
    const registers = this.#words;
    return registers[IQA + 1] + ((registers[IQA] & ~0xfff) >>> 0 > this.#loOf(head) >>> 0 ? 1 : 0);
  }

  #fetch(head: number, wide: boolean): boolean {
    const memory = this.#memory;
    const { words } = this.#descriptors;
    const hi = this.#hiOf(head);
    const lo = this.#loOf(head);
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
