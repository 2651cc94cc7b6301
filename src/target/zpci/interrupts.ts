import { hiOf, loOf } from '../../memory/address.ts';
import type { GuestMemory } from '../../memory/guest-memory.ts';
import type { Errors } from './errors.ts';
import { STATE, type ZpciFunction } from './function.ts';
import type { ZpciIommuOptions } from './options.ts';
import { PEC } from './spec/codes.ts';

/** MSI data: the number of the interrupt. */
const NUMBER_MASK = 0x7ff;
/** Times that the guest may store to an indicator's doubleword first. */
const ATTEMPTS = 1000;

/** MSIs become adapter interruptions: a bit for the interrupt, a bit for the function (QEMU: s390_msi_ctrl_write). */
export class AdapterInterrupts {
  readonly #memory: GuestMemory;
  readonly #errors: Errors;
  readonly #deliver: NonNullable<ZpciIommuOptions['adapterInterruption']> | undefined;

  constructor({ memory, adapterInterruption }: ZpciIommuOptions, errors: Errors) {
    this.#memory = memory;
    this.#errors = errors;
    this.#deliver = adapterInterruption;
  }

  /** Whether both indicators lie in memory. */
  allows({ vector, vectorBit, interrupts, summaryAddress, summaryBit }: NonNullable<ZpciFunction['indicators']>): boolean {
    const bits = [vector + BigInt((vectorBit + Math.max(interrupts, 1) - 1) >> 3), vector, summaryAddress + BigInt(summaryBit >> 3)];
    return bits.every((address) => this.#memory.read(hiOf(address), loOf(address), new Uint8Array(1), 0, 1) === 0);
  }

  /** The function has written `data` to the MSI address. Nothing happens where the function is not enabled or has registered no such interrupt. */
  message(one: ZpciFunction, data: number): void {
    const { indicators } = one;
    const number = data & NUMBER_MASK;
    if (one.state !== STATE.enabled || indicators === null || number >= indicators.interrupts) return;
    const { vector, vectorBit, summaryAddress, summaryBit, isc } = indicators;
    const before = this.#set(vector, vectorBit + number) < 0 ? -1 : this.#set(summaryAddress, summaryBit);
    if (before < 0) this.#errors.report(one, PEC.indicator, vector);
    else if (before === 0) this.#deliver?.(isc);
  }

  /** Sets a bit, counted from the leftmost of the byte at `address`, in one piece: the guest clears others meanwhile. Returns what it was; -1: no memory. */
  #set(address: bigint, bit: number): number {
    const memory = this.#memory;
    const byte = address + BigInt(bit >> 3);
    const hi = hiOf(byte);
    const lo = loOf(byte) & ~7;
    const at = 8 * (loOf(byte) & 7) + 7 - (bit & 7);
    const maskLo = at < 32 ? 1 << at : 0;
    const maskHi = at < 32 ? 0 : 1 << (at - 32);
    for (let attempt = 0; attempt < ATTEMPTS; attempt++) {
      if (memory.load64(hi, lo) < 0) return -1;
      const oldLo = memory.word[0];
      const oldHi = memory.word[1];
      if (((oldLo & maskLo) | (oldHi & maskHi)) !== 0) return 1;
      if (memory.compareExchange64(hi, lo, oldHi, oldLo, oldHi | maskHi, oldLo | maskLo) === 1) return 0;
    }
    // A guest that stores there without end has its own bits to lose, but no interrupt of ours.
    memory.store64(hi, lo, memory.word[1] | maskHi, memory.word[0] | maskLo);
    return 0;
  }
}
