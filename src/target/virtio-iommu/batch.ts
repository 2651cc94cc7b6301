import type { Domains } from './domains.ts';
import type { Requests } from './requests.ts';
import { REQUEST_BYTES } from './spec/requests.ts';

/** Requests that are made known to the hardware together. */
export const BATCH_LIMIT = 256;

/**
 * The requests of one kick. MAPs and UNMAPs take effect one after the other in the target's own state, and reach the hardware
 * together at the end: adjacent mappings as one. When the hardware refuses, all of them are taken back and done again one
 * by one, each with a flush of its own, so that exactly those that it cannot do are refused.
 */
export class Batch {
  /** The device-readable parts, REQUEST_BYTES each. */
  readonly bytes = new Uint8Array(BATCH_LIMIT * REQUEST_BYTES);
  /** Each of them as 32-bit words. */
  readonly requests: readonly Int32Array[];
  /** One for each request; final once `settle` was called. */
  readonly statuses = new Int8Array(BATCH_LIMIT);
  readonly #lengths = new Uint8Array(BATCH_LIMIT);
  readonly #does: Requests;
  readonly #domains: Domains;
  #count = 0;
  /** First request that the hardware does not know of. */
  #open = 0;

  constructor(does: Requests, domains: Domains) {
    this.#does = does;
    this.#domains = domains;
    this.requests = Array.from({ length: BATCH_LIMIT }, (_, i) => new Int32Array(this.bytes.buffer, i * REQUEST_BYTES, REQUEST_BYTES / 4));
  }

  clear(): void {
    this.#count = 0;
    this.#open = 0;
  }

  /** Does the next request, whose first `length` bytes lie in `bytes` at its place. */
  add(length: number): void {
    const index = this.#count;
    const alone = this.#does.isAlone(this.requests[index]);
    if (alone) this.settle();
    this.#count = index + 1;
    this.#lengths[index] = length;
    this.statuses[index] = this.#does.execute(this.requests[index], length);
    if (alone) this.#open = this.#count;
  }

  /** A request that has its status already. */
  addAnswered(status: number): void {
    this.#lengths[this.#count] = 0;
    this.statuses[this.#count++] = status;
  }

  /** After this the hardware agrees with every request that has status OK. */
  settle(): void {
    const from = this.#open;
    this.#open = this.#count;
    if (this.#domains.settle()) return;
    if (this.#count - from === 1) {
      this.statuses[from] = this.#domains.refusal;
      return;
    }
    for (let index = from; index < this.#count; index++) {
      if (this.#lengths[index] === 0) continue;
      this.statuses[index] = this.#does.execute(this.requests[index], this.#lengths[index]);
      if (!this.#domains.settle()) this.statuses[index] = this.#domains.refusal;
    }
  }
}
