import type { Domains } from './domains.ts';
import {
  ATTACH_BYTES,
  DETACH_BYTES,
  MAP_BYTES,
  REQUEST_BYTES,
  S_INVAL,
  S_NONE,
  S_UNSUPP,
  T_ATTACH,
  T_DETACH,
  T_MAP,
  T_UNMAP,
  UNMAP_BYTES,
} from './protocol.ts';

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
  /** One for each request; final once `settle` was called. */
  readonly statuses = new Int8Array(BATCH_LIMIT);
  /** Whether MAP and UNMAP are available (5.13.6.5, 5.13.6.6). */
  mapUnmap = false;
  readonly #view = new DataView(this.bytes.buffer);
  readonly #lengths = new Uint8Array(BATCH_LIMIT);
  readonly #domains: Domains;
  #count = 0;
  /** First request that the hardware does not know of. */
  #open = 0;

  constructor(domains: Domains) {
    this.#domains = domains;
  }

  clear(): void {
    this.#count = 0;
    this.#open = 0;
  }

  /** Does the next request, whose first `length` bytes lie in `bytes` at its place. */
  add(length: number): void {
    const index = this.#count;
    const type = this.bytes[index * REQUEST_BYTES];
    const alone = type === T_ATTACH || type === T_DETACH;
    if (alone) this.settle();
    this.#count = index + 1;
    this.#lengths[index] = length;
    this.statuses[index] = this.#execute(index);
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
      this.statuses[index] = this.#execute(index);
      if (!this.#domains.settle()) this.statuses[index] = this.#domains.refusal;
    }
  }

  /** A request that is cut short but can be answered is INVAL; one of a type that is not known comes back unanswered (5.13.6). */
  #execute(index: number): number {
    const at = index * REQUEST_BYTES;
    const length = this.#lengths[index];
    switch (this.bytes[at]) {
      case T_ATTACH:
        return length < ATTACH_BYTES ? S_INVAL : this.#domains.attach(this.#view, at);
      case T_DETACH:
        return length < DETACH_BYTES ? S_INVAL : this.#domains.detach(this.#view, at);
      case T_MAP:
        if (!this.mapUnmap) return S_UNSUPP;
        return length < MAP_BYTES ? S_INVAL : this.#domains.map(this.#view, at);
      case T_UNMAP:
        if (!this.mapUnmap) return S_UNSUPP;
        return length < UNMAP_BYTES ? S_INVAL : this.#domains.unmap(this.#view, at);
      default:
        return S_NONE;
    }
  }
}
