import { bytesOfHex, hexOf, isHexOf } from './saved-bytes.ts';
import { CONFIG_BYTES } from './spec.ts';

/** One register of configuration space, relative to where its structure begins. */
export interface ConfigField {
  /** As its specification calls it; for errors and for those who read the declaration. */
  readonly name: string;
  readonly at: number;
  readonly bytes: 1 | 2 | 3 | 4;
  /** After reset; default 0. */
  readonly value?: number;
  /** Bits that software can write; default none. */
  readonly writable?: number;
  /** Bits that a written 1 clears; default none. */
  readonly clears?: number;
  /** Bits that only the hardware changes, and that a saved function has again; default none. */
  readonly changes?: number;
}

/** The 4096 bytes of a function's configuration space: which bits there are, and which of them software can change. */
export class ConfigSpace {
  readonly #bytes = new Uint8Array(CONFIG_BYTES);
  readonly #initial = new Uint8Array(CONFIG_BYTES);
  readonly #writable = new Uint8Array(CONFIG_BYTES);
  readonly #clears = new Uint8Array(CONFIG_BYTES);
  readonly #changes = new Uint8Array(CONFIG_BYTES);

  /** Adds registers whose structure begins at `base`. @throws RangeError when one does not fit. */
  declare(base: number, fields: readonly ConfigField[]): void {
    for (const { name, at, bytes, value = 0, writable = 0, clears = 0, changes = 0 } of fields) {
      if (base + at + bytes > CONFIG_BYTES) throw new RangeError(`PCI: ${name} lies outside configuration space`);
      for (let i = 0; i < bytes; i++) {
        const place = base + at + i;
        this.#initial[place] = value >>> (8 * i);
        this.#writable[place] = writable >>> (8 * i);
        this.#clears[place] = clears >>> (8 * i);
        this.#changes[place] = changes >>> (8 * i);
        this.#bytes[place] = this.#initial[place];
      }
    }
  }

  /** Up to 4 bytes, unsigned; 0 outside. */
  get(offset: number, bytes: number): number {
    let value = 0;
    for (let i = 0; i < bytes; i++) value |= (this.#bytes[offset + i] ?? 0) << (8 * i);
    return value >>> 0;
  }

  /** What the hardware itself puts there. */
  put(offset: number, bytes: number, value: number): void {
    for (let i = 0; i < bytes && offset + i < CONFIG_BYTES; i++) this.#bytes[offset + i] = value >>> (8 * i);
  }

  /** What software writes: only bits that it can change do. */
  write(offset: number, bytes: number, value: number): void {
    for (let i = 0; i < bytes && offset + i < CONFIG_BYTES; i++) {
      const place = offset + i;
      const byte = (value >>> (8 * i)) & 0xff;
      const writable = this.#writable[place];
      const old = this.#bytes[place];
      this.#bytes[place] = ((old & ~writable) | (byte & writable)) & ~(byte & this.#clears[place]);
    }
  }

  reset(): void {
    this.#bytes.set(this.#initial);
  }

  /** As hexadecimal. */
  save(): string {
    return hexOf(this.#bytes);
  }

  /** What cannot change stays. @throws TypeError when `save` did not make it. */
  load(state: unknown): void {
    if (!isHexOf(state, CONFIG_BYTES)) throw new TypeError('PCI: the state has no configuration space');
    const saved = bytesOfHex(state);
    for (let place = 0; place < CONFIG_BYTES; place++) {
      const changing = this.#writable[place] | this.#clears[place] | this.#changes[place];
      this.#bytes[place] = (this.#initial[place] & ~changing) | (saved[place] & changing);
    }
  }
}
