import type { ConfigSpace } from './config-space.ts';

/** Where a window's registers lie in its capability: they are software's to write. */
export interface WindowFields {
  /** The BAR's number, 1 byte. */
  readonly bar: number;
  /** Where in the BAR, and how many bytes (1, 2 or 4), 4 bytes each. */
  readonly offset: number;
  readonly length: number;
  /** The window itself, 4 bytes. */
  readonly data: number;
}

/** What is behind BARs, whether software has given them addresses or not. */
export interface BehindBars {
  readBar(bar: number, offset: number, bytes: number): bigint;
  writeBar(bar: number, offset: number, bytes: number, value: bigint): void;
}

const LENGTHS: readonly number[] = [1, 2, 4];
const DATA_BYTES = 4;

/**
 * Registers through which software reaches what is behind BARs by accesses of configuration space (VIRTIO 1.3, 4.1.4.9). Where what it
 * has put there is no access that it may make, the window is memory and no more.
 */
export class BarWindow {
  readonly #fields: WindowFields;
  readonly #config: ConfigSpace;
  readonly #at: number;
  readonly #behind: BehindBars;

  /** `at`: where the capability lies in `config`. */
  constructor(fields: WindowFields, config: ConfigSpace, at: number, behind: BehindBars) {
    this.#fields = fields;
    this.#config = config;
    this.#at = at;
    this.#behind = behind;
  }

  /** Software is about to read: what it finds in the window is what stands behind the BAR now. */
  beforeRead(offset: number, bytes: number): void {
    const length = this.#lengthOf(offset, bytes);
    if (length > 0) this.#config.put(this.#data, length, Number(this.#behind.readBar(this.#bar, this.#offset, length)));
  }

  /** Software has written: what stands in the window now goes behind the BAR. */
  written(offset: number, bytes: number): void {
    const length = this.#lengthOf(offset, bytes);
    if (length > 0) this.#behind.writeBar(this.#bar, this.#offset, length, BigInt(this.#config.get(this.#data, length)));
  }

  /** Bytes that an access of configuration space reads or writes behind the BAR; 0: it does not reach the window, or that leads nowhere. */
  #lengthOf(offset: number, bytes: number): number {
    if (offset >= this.#data + DATA_BYTES || offset + bytes <= this.#data) return 0;
    const length = this.#config.get(this.#at + this.#fields.length, 4);
    return LENGTHS.includes(length) && this.#offset % length === 0 ? length : 0;
  }

  get #data(): number {
    return this.#at + this.#fields.data;
  }

  get #bar(): number {
    return this.#config.get(this.#at + this.#fields.bar, 1);
  }

  get #offset(): number {
    return this.#config.get(this.#at + this.#fields.offset, 4);
  }
}
