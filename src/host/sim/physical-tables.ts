import { HI, joinHiLo, LO } from '../../memory/address.ts';
import { MEM_FAULT, MEM_OK } from '../../memory/guest-memory.ts';
import { LOADED } from '../../memory/loaded.ts';
import type { TableMemory } from '../../pagetable/page-table.ts';
import type { PhysicalMemory } from './memory.ts';

/** Simulated physical memory, as table walkers read it. For a probe nothing is written, though the walker is told that it was. */
export class PhysicalTables implements TableMemory {
  readonly word = LOADED;
  readonly #physical: PhysicalMemory;
  readonly #writes: boolean;

  constructor(physical: PhysicalMemory, writes: boolean) {
    this.#physical = physical;
    this.#writes = writes;
  }

  #view(hi: number, lo: number, bytes: number): DataView | null {
    const address = (hi >>> 0) * 0x1_0000_0000 + (lo >>> 0);
    const frames = this.#physical.find(address);
    return frames === undefined || address + bytes - 1 > frames.last ? null : new DataView(frames.buffer, address - frames.first, bytes);
  }

  #load64(hi: number, lo: number, littleEndian: boolean): number {
    const view = this.#view(hi, lo, 8);
    if (view === null) return MEM_FAULT;
    LOADED[littleEndian ? LO : HI] = view.getInt32(0, littleEndian);
    LOADED[littleEndian ? HI : LO] = view.getInt32(4, littleEndian);
    return MEM_OK;
  }

  #load32(hi: number, lo: number, littleEndian: boolean): number {
    const view = this.#view(hi, lo, 4);
    if (view === null) return MEM_FAULT;
    LOADED[LO] = view.getInt32(0, littleEndian);
    LOADED[HI] = 0;
    return MEM_OK;
  }

  load64(hi: number, lo: number): number {
    return this.#load64(hi, lo, true);
  }
  load64BE(hi: number, lo: number): number {
    return this.#load64(hi, lo, false);
  }
  load32(hi: number, lo: number): number {
    return this.#load32(hi, lo, true);
  }
  load32BE(hi: number, lo: number): number {
    return this.#load32(hi, lo, false);
  }

  #store64(hi: number, lo: number, value: bigint, littleEndian: boolean): number {
    const view = this.#view(hi, lo, 8);
    if (view === null) return MEM_FAULT;
    if (this.#writes) view.setBigUint64(0, value, littleEndian);
    return MEM_OK;
  }

  #store32(hi: number, lo: number, value: number, littleEndian: boolean): number {
    const view = this.#view(hi, lo, 4);
    if (view === null) return MEM_FAULT;
    if (this.#writes) view.setInt32(0, value, littleEndian);
    return MEM_OK;
  }

  store64(hi: number, lo: number, valueHi: number, valueLo: number): number {
    return this.#store64(hi, lo, joinHiLo(valueHi, valueLo), true);
  }
  store64BE(hi: number, lo: number, valueHi: number, valueLo: number): number {
    return this.#store64(hi, lo, joinHiLo(valueHi, valueLo), false);
  }
  store32(hi: number, lo: number, value: number): number {
    return this.#store32(hi, lo, value, true);
  }
  store32BE(hi: number, lo: number, value: number): number {
    return this.#store32(hi, lo, value, false);
  }

  compareExchange64(hi: number, lo: number, oldHi: number, oldLo: number, newHi: number, newLo: number): number {
    const view = this.#view(hi, lo, 8);
    if (view === null) return MEM_FAULT;
    if (view.getBigUint64(0, true) !== joinHiLo(oldHi, oldLo)) return 0;
    if (this.#writes) view.setBigUint64(0, joinHiLo(newHi, newLo), true);
    return 1;
  }
}
