import type { GuestMemory } from '../../memory/guest-memory.ts';
import { Chain } from '../../virtqueue/chain.ts';
import type { VirtioDevice } from '../../virtqueue/device.ts';
import { TAKEN } from '../../virtqueue/virtqueue.ts';
import { put } from '../fields.ts';
import { FAULT, FAULT_BYTES, FAULT_F_ADDRESS } from './spec/fault.ts';
import { EVENT_QUEUE } from './spec/features.ts';

/** Reports faults on the event queue (5.13.6.9). A report that finds no buffer is dropped and counted. */
export class FaultQueue {
  /** Reports that the driver did not get. */
  dropped = 0;
  readonly #memory: GuestMemory;
  readonly #device: VirtioDevice;
  readonly #chain = new Chain();
  readonly #report = new Uint8Array(FAULT_BYTES);
  readonly #words = new Int32Array(this.#report.buffer);

  constructor(memory: GuestMemory, device: VirtioDevice) {
    this.#memory = memory;
    this.#device = device;
  }

  /** `flags`: FAULT_F_READ and FAULT_F_WRITE. */
  report(reason: number, flags: number, endpoint: number, hi: number, lo: number): void {
    const words = this.#words;
    put(words, FAULT.REASON, reason);
    put(words, FAULT.FLAGS, flags | FAULT_F_ADDRESS);
    put(words, FAULT.ENDPOINT, endpoint);
    put(words, FAULT.ADDRESS_LO, lo);
    put(words, FAULT.ADDRESS_HI, hi);
    if (!this.#send()) this.dropped++;
  }

  /** A buffer that is too small, or no RAM, is given back empty, and the report with it: one buffer, one report. */
  #send(): boolean {
    const ring = this.#device.queue(EVENT_QUEUE);
    const taken = ring === null ? 0 : ring.take(this.#chain);
    if (ring === null || taken !== TAKEN) {
      if (taken < 0) this.#device.breakDown();
      return false;
    }
    const fits = this.#chain.writable >= FAULT_BYTES && this.#chain.write(this.#memory, 0, this.#report, 0, FAULT_BYTES) >= 0;
    if (ring.give(this.#chain, fits ? FAULT_BYTES : 0) < 0) this.#device.breakDown();
    if (ring.publish()) this.#device.interrupt(EVENT_QUEUE);
    return fits;
  }
}
