import { hiOfPfn, loOfPfn } from '../../../memory/address.ts';
import { get, getWide, put, putWide } from '../../fields.ts';
import { Csr, QUEUE_BASE } from '../spec/registers.ts';
import type { Registers } from './registers.ts';

/** Where the registers of a queue are. */
interface QueueLayout {
  readonly base: number;
  /** The index that software writes: cqt, fqh, pqh. */
  readonly software: number;
  /** The index that the IOMMU advances: cqh, fqt, pqt. */
  readonly device: number;
  readonly csr: number;
  /** lg2 of an entry's bytes. */
  readonly entryLg2: number;
  /** Bits of the csr that software clears by writing 1. */
  readonly clearable: number;
}

/** "In-memory queue interface": what command, fault and page-request queue have in common. */
export class Queue {
  /** Address of the entry that `locate` computed. */
  entryHi = 0;
  entryLo = 0;
  readonly #registers: Registers;
  readonly #layout: QueueLayout;
  /** cqb, fqb or pqb. */
  readonly #base: Int32Array;

  constructor(registers: Registers, layout: QueueLayout) {
    this.#registers = registers;
    this.#layout = layout;
    this.#base = registers.words.subarray(layout.base >>> 2, (layout.base >>> 2) + 2);
  }

  /** 2^LOG2SZ - 1; LOG2SZ can be 32. */
  get mask(): number {
    const lg2 = get(this.#base, QUEUE_BASE.LOG2SZ_1) + 1;
    return lg2 === 32 ? -1 : (1 << lg2) - 1;
  }
  get software(): number {
    return this.#registers.get(this.#layout.software);
  }
  get device(): number {
    return this.#registers.get(this.#layout.device);
  }
  get isOn(): boolean {
    return this.#registers.has(this.#layout.csr, Csr.on) && this.#registers.has(this.#layout.csr, Csr.enable);
  }
  /** Full, for a queue that the IOMMU fills: one entry always stays free. */
  get isFull(): boolean {
    return ((this.device + 1) & this.mask) === this.software;
  }

  has(bits: number): boolean {
    return this.#registers.has(this.#layout.csr, bits);
  }
  setBits(bits: number): void {
    this.#registers.setBits(this.#layout.csr, bits);
  }

  /** Computes the address of an entry, by default the one at the device's index. */
  locate(index = this.device): void {
    const { entryLg2 } = this.#layout;
    const page = getWide(this.#base, QUEUE_BASE.PPN);
    this.entryHi = hiOfPfn(page) | (index >>> (32 - entryLg2));
    this.entryLo = loOfPfn(page) | (index << entryLg2);
  }
  advance(): void {
    this.#registers.set(this.#layout.device, (this.device + 1) & this.mask);
  }

  /** cqb, fqb, pqb. Written while the queue is on, the behaviour is unspecified: ignored. */
  writeBase(hi: number, lo: number): void {
    const registers = this.#registers;
    const { csr, software } = this.#layout;
    if (registers.has(csr, Csr.on | Csr.busy)) return;
    const written = [lo, hi];
    const base = this.#base;
    put(base, QUEUE_BASE.LOG2SZ_1, get(written, QUEUE_BASE.LOG2SZ_1));
    putWide(base, QUEUE_BASE.PPN, getWide(written, QUEUE_BASE.PPN) % registers.pages);
    registers.set(software, 0);
  }

  /** Its registers are saved ones: of what never comes to its end, only what can. */
  restore(): void {
    const { software, device } = this.#layout;
    for (const index of [software, device]) this.#registers.set(index, this.#registers.get(index) & this.mask);
  }

  /** Only the low LOG2SZ bits can be written. */
  writeIndex(value: number): void {
    this.#registers.set(this.#layout.software, value & this.mask);
  }

  /** Turns the queue on (a fresh start) or off, stores the interrupt enable, clears errors. Ignored while busy. */
  writeCsr(value: number): void {
    const registers = this.#registers;
    const { csr, device, clearable } = this.#layout;
    if (registers.has(csr, Csr.busy)) return;
    const enable = (value & Csr.enable) !== 0;
    if (enable && !registers.has(csr, Csr.enable)) {
      registers.set(device, 0);
      registers.clearBits(csr, clearable);
    }
    const kept = registers.get(csr) & clearable & ~value;
    registers.set(csr, kept | (enable ? Csr.enable | Csr.on : 0) | (value & Csr.interruptEnable));
  }
}
