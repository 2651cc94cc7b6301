import { hiOf, loOf } from '../../memory/address.ts';
import type { GuestMemory } from '../../memory/guest-memory.ts';
import type { Errors } from './errors.ts';
import type { ZpciFunction } from './function.ts';
import type { ZpciIommuOptions } from './options.ts';
import { PEC } from './spec/codes.ts';
import { FMB, FMB_COUNTERS } from './spec/fib.ts';

/** The four low bits of a measurement block's address: a storage key, which machines without keys do not have. */
const KEY_MASK = 0xfn;

/** Function measurement blocks, which the guest reads how much a function does from (QEMU: fmb_update). */
export class Measurement {
  readonly #memory: GuestMemory;
  readonly #errors: Errors;
  readonly #timeOfDay: () => bigint;

  constructor({ memory, timeOfDay }: ZpciIommuOptions, errors: Errors) {
    this.#memory = memory;
    this.#errors = errors;
    this.#timeOfDay = timeOfDay ?? (() => 0n);
  }

  /** MPCIFC 10. False: the address has a key. */
  set(one: ZpciFunction, address: bigint): boolean {
    if ((address & KEY_MASK) !== 0n) {
      this.#errors.report(one, PEC.measurementKey, address);
      one.stopMeasurement();
      return false;
    }
    if (address === 0n) one.stopMeasurement();
    one.measurement = address;
    return true;
  }

  /** Writes the function's block, if it has one. A block outside memory is reported, and given up. */
  update(one: ZpciFunction): void {
    if (one.measurement === 0n) return;
    const time = BigInt.asUintN(63, this.#timeOfDay()) << 1n;
    if (this.#store(one, time)) return;
    this.#errors.report(one, PEC.measurementAddress, one.measurement);
    one.stopMeasurement();
  }

  #store(one: ZpciFunction, time: bigint): boolean {
    const at = (offset: number) => one.measurement + BigInt(offset);
    const store64 = (offset: number, value: bigint) =>
      this.#memory.store64BE(hiOf(at(offset)), loOf(at(offset)), hiOf(value), loOf(value)) === 0;
    if (!store64(FMB.LAST_UPDATE, time | 1n)) return false;
    if (this.#memory.store32BE(hiOf(at(FMB.SAMPLES)), loOf(at(FMB.SAMPLES)), one.samples) < 0) return false;
    one.samples = (one.samples + 1) | 0;
    for (let i = 0; i < FMB_COUNTERS; i++) if (!store64(FMB.COUNTERS + 8 * i, BigInt(one.counters[i]))) return false;
    return store64(FMB.LAST_UPDATE, time);
  }
}
