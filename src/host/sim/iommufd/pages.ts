import { PAGE_BYTES } from '../../../memory/address.ts';
import type { SimKernel } from '../kernel.ts';
import type { Frames } from '../memory.ts';

const PAGE = BigInt(PAGE_BYTES);

/** Where the bytes of a mapping come from; resolved only when a domain wants them, as the kernel pins lazily. */
export interface Source {
  /** It is a file, not memory of the process. */
  readonly file?: boolean;
  /** Frames and offset in them of [start, start + bytes), or a negative errno. */
  resolve(start: bigint, bytes: bigint, write: boolean): { readonly frames: Frames; readonly offset: number } | number;
}

/** Memory that one map call named; copies share it, so that it is pinned once (struct iopt_pages). */
export class Pages {
  readonly source: Source;
  /** First byte, of the process or of the file. */
  readonly start: bigint;
  readonly bytes: bigint;
  readonly writable: boolean;
  readonly #kernel: SimKernel;
  #areas = 0;

  constructor(kernel: SimKernel, source: Source, start: bigint, bytes: bigint, writable: boolean) {
    this.#kernel = kernel;
    this.source = source;
    this.start = start;
    this.bytes = bytes;
    this.writable = writable;
  }

  get #pinned(): number {
    const first = this.start / PAGE;
    const last = (this.start + this.bytes - 1n) / PAGE;
    return Number(last - first + 1n) * PAGE_BYTES;
  }

  /** One more area of it is in a domain. 0 or -ENOMEM. */
  pin(): number {
    if (this.#areas === 0) {
      const refused = this.#kernel.pin(this.#pinned);
      if (refused < 0) return refused;
    }
    this.#areas++;
    return 0;
  }

  unpin(): void {
    if (--this.#areas === 0) this.#kernel.unpin(this.#pinned);
  }
}

/** A part of another mapping, to be mapped again (IOAS_COPY). */
export interface Slice {
  readonly pages: Pages;
  readonly offset: bigint;
  readonly bytes: bigint;
}
