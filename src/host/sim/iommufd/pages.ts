import { PAGE_BYTES } from '../../../memory/address.ts';
import type { SimFile } from '../files.ts';
import type { SimKernel } from '../kernel.ts';
import type { Payer } from '../locked-memory.ts';
import type { Frames } from '../memory.ts';
import { type Span, without } from '../spans.ts';

const PAGE = BigInt(PAGE_BYTES);

/** Where the bytes of a mapping come from; resolved only when a domain wants them, as the kernel pins lazily. */
export interface Source {
  /** Left out: it is memory of the process. */
  readonly file?: SimFile;
  /** Frames and offset in them of [start, start + bytes), to be pinned or only copied, or a negative errno. */
  resolve(start: bigint, bytes: bigint, how: { readonly write: boolean; readonly pins: boolean }): PinnedAt | number;
}

/** Where pinned bytes lie. */
export interface PinnedAt {
  readonly frames: Frames;
  /** In the frames. */
  readonly offset: number;
}

/** Pinned whole pages, by their number, and the bytes that were asked for. */
interface Pin extends Span<bigint> {
  readonly from: bigint;
  readonly bytes: bigint;
  readonly at: PinnedAt;
}

/** Memory that one map call named; copies share it, so that it is pinned once (struct iopt_pages). */
export class Pages {
  readonly source: Source;
  /** First byte, of the process or of the file. */
  readonly start: bigint;
  readonly bytes: bigint;
  readonly writable: boolean;
  readonly #kernel: SimKernel;
  #payer: Payer;
  /** Whole pages, by their number in it, for each who wants them pinned: a page that several want is pinned once. */
  readonly #pins: Pin[] = [];
  #areas = 0;

  constructor(kernel: SimKernel, payer: Payer, source: Source, start: bigint, bytes: bigint, writable: boolean) {
    this.#kernel = kernel;
    this.#payer = payer;
    this.source = source;
    this.start = start;
    this.bytes = bytes;
    this.writable = writable;
  }

  /** Bytes that are counted, and not against the process that runs. */
  get countedElsewhere(): number {
    const { account, process } = this.#payer;
    if (account === null || process === this.#kernel.current) return 0;
    let bytes = 0;
    for (const [index, pin] of this.#pins.entries()) bytes += this.#alone(pin, this.#pins.slice(0, index));
    return bytes;
  }

  /** Somebody else pays from now on, who has been charged for it. */
  payBy(payer: Payer): void {
    this.#kernel.unpin(this.countedElsewhere, this.#payer);
    this.#payer = payer;
  }

  /** An area is made of it: while there is one, a file stays open. */
  enter(): void {
    if (this.#areas++ === 0 && this.source.file !== undefined) this.#kernel.hold(this.source.file);
  }

  leave(): void {
    if (--this.#areas === 0 && this.source.file !== undefined) this.#kernel.drop(this.source.file);
  }

  #pagesOf(offset: bigint, bytes: bigint): Span<bigint> {
    return { first: (this.start + offset) / PAGE, last: (this.start + offset + bytes - 1n) / PAGE };
  }

  /** Bytes of the pages that none of the others have. */
  #alone(pages: Span<bigint>, others: readonly Span<bigint>[] = this.#pins): number {
    let parts = [pages];
    for (const pin of others) parts = parts.flatMap((part) => without(part, pin));
    return Number(parts.reduce((sum, { first, last }) => sum + last - first + 1n, 0n)) * PAGE_BYTES;
  }

  /** Where [offset, offset + bytes) lies: what is pinned is not looked for again, though its process may be gone. Or a negative errno. */
  locate(offset: bigint, bytes: bigint, how = { write: this.writable, pins: true }): PinnedAt | number {
    const pin = this.#pins.find((other) => other.from <= offset && offset + bytes <= other.from + other.bytes);
    if (pin === undefined) return this.source.resolve(this.start + offset, bytes, how);
    return { frames: pin.at.frames, offset: pin.at.offset + Number(offset - pin.from) };
  }

  /** An area or an access wants [offset, offset + bytes), which lies there, pinned. 0 or -ENOMEM. */
  pin(offset: bigint, bytes: bigint, at: PinnedAt): number {
    const pages = this.#pagesOf(offset, bytes);
    const refused = this.#kernel.pin(this.#alone(pages), this.#payer);
    if (refused === 0) this.#pins.push({ ...pages, from: offset, bytes, at });
    return refused;
  }

  unpin(offset: bigint, bytes: bigint): void {
    const pages = this.#pagesOf(offset, bytes);
    this.#pins.splice(
      this.#pins.findIndex(({ first, last }) => first === pages.first && last === pages.last),
      1,
    );
    this.#kernel.unpin(this.#alone(pages), this.#payer);
  }
}

/** A part of another mapping, to be mapped again (IOAS_COPY). */
export interface Slice {
  readonly pages: Pages;
  readonly offset: bigint;
  readonly bytes: bigint;
}
