import { GuestMemory, MEM_FAULT } from '../../memory/guest-memory.ts';
import type { IommuMemory } from '../../target/riscv/index.ts';

/** Enough for all addresses that the recording uses. */
const BYTES = 1 << 24;

/**
 * Memory of a recorded run: accesses at one address can be made to fail, another can be poisoned, and what the device
 * stores is remembered until somebody asks.
 */
export class ReplayMemory implements IommuMemory {
  readonly word: Int32Array;
  poisoned = false;
  #accessFault = -1n;
  #corruption = -1n;
  readonly #ram = GuestMemory.ofBytes(BYTES);
  /** What doublewords held before the device stored to them. */
  readonly #before = new Map<number, bigint>();

  constructor() {
    this.word = this.#ram.word;
  }

  /** From now on accesses at these addresses fail; addresses that are not memory's: none do. */
  fail(accessFault: bigint, corruption: bigint): void {
    this.#accessFault = accessFault;
    this.#corruption = corruption;
  }

  #refuses(hi: number, lo: number): boolean {
    const address = (BigInt(hi >>> 0) << 32n) | BigInt(lo >>> 0);
    this.poisoned = address === this.#corruption;
    return this.poisoned || address === this.#accessFault;
  }

  #remember(hi: number, lo: number): void {
    const at = lo & ~7;
    if (hi !== 0 || this.#before.has(at) || this.#ram.load64(0, at) < 0) return;
    this.#before.set(at, this.#word64());
  }

  #word64(): bigint {
    return (BigInt(this.word[1] >>> 0) << 32n) | BigInt(this.word[0] >>> 0);
  }

  /** Doublewords that the device changed since the last call, by address. They are as before again. */
  takeChanges(): Map<number, bigint> {
    const changes = new Map<number, bigint>();
    for (const [at, before] of this.#before) {
      this.#ram.load64(0, at);
      if (this.#word64() !== before) changes.set(at, this.#word64());
      this.#ram.store64(0, at, Number(before >> 32n) | 0, Number(before & 0xffff_ffffn) | 0);
    }
    this.#before.clear();
    return changes;
  }

  /** A change of memory by the recorded test. */
  set(address: number, bytes: Uint8Array): void {
    if (this.#ram.write(0, address, bytes, 0, bytes.length) === MEM_FAULT) throw new RangeError(`0x${address.toString(16)} is not memory`);
  }

  load64(hi: number, lo: number): number {
    return this.#refuses(hi, lo) ? MEM_FAULT : this.#ram.load64(hi, lo);
  }
  load64BE(hi: number, lo: number): number {
    return this.#refuses(hi, lo) ? MEM_FAULT : this.#ram.load64BE(hi, lo);
  }
  load32(hi: number, lo: number): number {
    return this.#refuses(hi, lo) ? MEM_FAULT : this.#ram.load32(hi, lo);
  }
  load32BE(hi: number, lo: number): number {
    return this.#refuses(hi, lo) ? MEM_FAULT : this.#ram.load32BE(hi, lo);
  }
  store64(hi: number, lo: number, valueHi: number, valueLo: number): number {
    if (this.#refuses(hi, lo)) return MEM_FAULT;
    this.#remember(hi, lo);
    return this.#ram.store64(hi, lo, valueHi, valueLo);
  }
  store64BE(hi: number, lo: number, valueHi: number, valueLo: number): number {
    if (this.#refuses(hi, lo)) return MEM_FAULT;
    this.#remember(hi, lo);
    return this.#ram.store64BE(hi, lo, valueHi, valueLo);
  }
  store32(hi: number, lo: number, value: number): number {
    if (this.#refuses(hi, lo)) return MEM_FAULT;
    this.#remember(hi, lo);
    return this.#ram.store32(hi, lo, value);
  }
  store32BE(hi: number, lo: number, value: number): number {
    if (this.#refuses(hi, lo)) return MEM_FAULT;
    this.#remember(hi, lo);
    return this.#ram.store32BE(hi, lo, value);
  }
  compareExchange64(hi: number, lo: number, oldHi: number, oldLo: number, newHi: number, newLo: number): number {
    if (this.#refuses(hi, lo)) return MEM_FAULT;
    this.#remember(hi, lo);
    return this.#ram.compareExchange64(hi, lo, oldHi, oldLo, newHi, newLo);
  }
}
