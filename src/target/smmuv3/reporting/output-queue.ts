import type { GuestMemory } from '../../../memory/guest-memory.ts';
import { type Field, getWide, isSet } from '../../fields.ts';
import type { Registers } from '../control/registers.ts';
import { EVENT_BYTES, PRI_BYTES } from '../spec/events.ts';
import { CR0, GERROR, OVERFLOW_FLAG, QUEUE_BASE, REG } from '../spec/registers.ts';
import type { Interrupts } from './interrupts.ts';

/** Where one of the queues that the SMMU fills is. */
interface Layout {
  readonly base: number;
  readonly prod: number;
  readonly cons: number;
  readonly bytes: number;
  readonly enable: Field;
  readonly abort: Field;
  readonly most: 'EVENTQS' | 'PRIQS';
}

export const EVENT_QUEUE: Layout = {
  base: REG.EVENTQ_BASE,
  prod: REG.EVENTQ_PROD,
  cons: REG.EVENTQ_CONS,
  bytes: EVENT_BYTES,
  enable: CR0.EVENTQEN,
  abort: GERROR.EVENTQ_ABT_ERR,
  most: 'EVENTQS',
};
export const PRI_QUEUE: Layout = {
  base: REG.PRIQ_BASE,
  prod: REG.PRIQ_PROD,
  cons: REG.PRIQ_CONS,
  bytes: PRI_BYTES,
  enable: CR0.PRIQEN,
  abort: GERROR.PRIQ_ABT_ERR,
  most: 'PRIQS',
};

const OVFLG = 1 << OVERFLOW_FLAG.shift;
const ALIGNMENT = 32;

/** A queue that the SMMU writes and the guest reads: events, 7.2, and page requests, chapter 8. */
export class OutputQueue {
  readonly #registers: Registers;
  readonly #memory: GuestMemory;
  readonly #interrupts: Interrupts;
  readonly #layout: Layout;

  constructor(registers: Registers, memory: GuestMemory, interrupts: Interrupts, layout: Layout) {
    this.#registers = registers;
    this.#memory = memory;
    this.#interrupts = interrupts;
    this.#layout = layout;
  }

  get #lg2(): number {
    const { base, most } = this.#layout;
    return this.#registers.queueLg2(base, most);
  }

  /** Records that the guest has not taken yet; more than fit only where it moved its index wrongly. */
  get #used(): number {
    const { prod, cons } = this.#layout;
    return (this.#registers.get32(prod) - this.#registers.get32(cons)) & (2 ** (this.#lg2 + 1) - 1);
  }

  get isOn(): boolean {
    return isSet(this.#registers.view(REG.CR0), this.#layout.enable) && !this.#interrupts.isActive(this.#layout.abort);
  }
  get isEmpty(): boolean {
    return this.#used === 0;
  }
  get isFull(): boolean {
    return this.#used >= 2 ** this.#lg2;
  }
  /** 7.2.1. */
  get isWritable(): boolean {
    return this.isOn && !this.isFull;
  }
  /** 7.4: the guest has not acknowledged that records were lost. */
  get hasOverflowed(): boolean {
    const { prod, cons } = this.#layout;
    return ((this.#registers.get32(prod) ^ this.#registers.get32(cons)) & OVFLG) !== 0;
  }

  /** A record was lost because the queue is full. True: that is news. */
  overflow(): boolean {
    if (this.hasOverflowed) return false;
    const { prod } = this.#layout;
    this.#registers.set32(prod, this.#registers.get32(prod) ^ OVFLG);
    return true;
  }

  /** Writes a record into a writable queue. False: it is not in memory, and the queue's error is active. */
  append(words: Int32Array): boolean {
    const registers = this.#registers;
    const { base, prod, bytes, abort } = this.#layout;
    const lg2 = this.#lg2;
    const index = registers.get32(prod);
    const size = 2 ** lg2 * bytes;
    const start = getWide(registers.view(base), QUEUE_BASE.ADDR) * ALIGNMENT;
    const at = start - (start % size) + (index & (2 ** lg2 - 1)) * bytes;
    for (let i = 0; i < bytes / 8; i++) {
      if (this.#memory.store64(Math.floor(at / 2 ** 32) | 0, (at | 0) + 8 * i, words[2 * i + 1], words[2 * i]) >= 0) continue;
      this.#interrupts.activate(abort);
      return false;
    }
    registers.set32(prod, (index & OVFLG) | ((index + 1) & (2 ** (lg2 + 1) - 1)));
    return true;
  }
}
