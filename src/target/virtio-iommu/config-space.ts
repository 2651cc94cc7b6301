import { hiOf, loOf } from '../../memory/address.ts';
import { isSet, put } from '../fields.ts';
import { BYPASS_OFFSET, CONFIG, CONFIG_BYTES } from './spec/config.ts';

export interface ConfigFields {
  readonly pageSizeMask: bigint;
  /** First and last address that MAP takes. */
  readonly inputRange: { readonly start: bigint; readonly last: bigint };
  /** First and last domain number. */
  readonly domainRange: { readonly first: number; readonly last: number };
  /** Bytes of a PROBE answer. */
  readonly probeBytes: number;
}

/** The device's configuration as the driver reads it (5.13.4). Only `bypass` ever changes. */
export class ConfigSpace {
  readonly #words = new Int32Array(CONFIG_BYTES / 4);
  readonly #bytes = new Uint8Array(this.#words.buffer);

  constructor({ pageSizeMask, inputRange, domainRange, probeBytes }: ConfigFields) {
    const words = this.#words;
    put(words, CONFIG.PAGE_SIZE_MASK_LO, loOf(pageSizeMask));
    put(words, CONFIG.PAGE_SIZE_MASK_HI, hiOf(pageSizeMask));
    put(words, CONFIG.INPUT_START_LO, loOf(inputRange.start));
    put(words, CONFIG.INPUT_START_HI, hiOf(inputRange.start));
    put(words, CONFIG.INPUT_END_LO, loOf(inputRange.last));
    put(words, CONFIG.INPUT_END_HI, hiOf(inputRange.last));
    put(words, CONFIG.DOMAIN_START, domainRange.first);
    put(words, CONFIG.DOMAIN_END, domainRange.last);
    put(words, CONFIG.PROBE_SIZE, probeBytes);
  }

  get bypass(): boolean {
    return isSet(this.#words, CONFIG.BYPASS);
  }
  set bypass(value: boolean) {
    put(this.#words, CONFIG.BYPASS, value ? 1 : 0);
  }

  /** Fills `to` with what the driver reads at `offset`; 0 past the end. */
  read(offset: number, to: Uint8Array): void {
    for (let i = 0; i < to.length; i++) to[i] = this.#bytes[offset + i] ?? 0;
  }

  /** What a write means for `bypass`; null: nothing, or a value that it cannot have (5.13.4.2). */
  bypassWritten(offset: number, from: Uint8Array): boolean | null {
    const value = from[BYPASS_OFFSET - offset];
    return value === 0 || value === 1 ? value === 1 : null;
  }
}
