import { PRIVILEGED, READ, WRITE } from '../../../memory/access.ts';
import { Iotlb } from '../../../memory/iotlb.ts';
import { OUT_HI, OUT_LENGTH, OUT_LO, OUT_PERMISSION } from '../../../pagetable/page-table.ts';
import type { Registers } from '../control/registers.ts';
import type { Fault } from '../reporting/events.ts';
import type { Refusals } from '../reporting/refusals.ts';
import { CLASS, EVENT } from '../spec/events.ts';
import { FAULT_ABORT } from '../spec/faults.ts';
import type { Smmuv3Options } from '../surroundings.ts';
import { Configurations } from './configurations.ts';
import { Route, VERDICT } from './route.ts';
import { WORLD_EL2 } from './stream-entry.ts';
import { Walks } from './walks.ts';

/** Bit 55, and the bits above it. */
const UPPER = 1 << 23;
const TOP = 0xff << 24;
/** READ | WRITE, here because the compiler folds a module's own constants only. */
const RW = 3;
/** For the test that compares them with their declarations. */
export const REPEATED = { RW } as const;
const TOO_WIDE: Fault = { number: EVENT.F_ADDR_SIZE, on: CLASS.IN };

/** Translates requests: configurations and translations are cached until the guest invalidates them. */
export class Translator {
  /** What the IOTLB answers with: [lo, hi], then more. */
  readonly translated: Int32Array;
  readonly iotlb: Iotlb;
  readonly configurations: Configurations;
  readonly walks: Walks;
  readonly #refusals: Refusals;
  readonly #fill = new Int32Array(OUT_LENGTH);
  /** Whether translations of private and of other ASIDs may be cached (CD.ASET). */
  hasPrivate = false;
  hasShared = false;
  /** Worlds with cached translations of both stages: pages of stage 1 may be cached in pieces. */
  readonly #pieces = new Set<number>();
  /** Whose request was translated last, and how: most come in a row. NaN: nobody's. */
  #stream = Number.NaN;
  #substream = -1;
  #route: Route;
  /** Of that route, where addresses are looked up as they are; a hit needs no more. */
  #isPlain = false;
  /** And where reads and writes of the unprivileged are what they say they are. */
  #isAsAsked = false;
  #wishes: Uint8Array;
  #space = 0;
  #tag = 0;

  constructor(registers: Registers, refusals: Refusals, { memory, iotlbEntries = 65536 }: Smmuv3Options) {
    this.#refusals = refusals;
    this.iotlb = new Iotlb(iotlbEntries);
    this.translated = this.iotlb.out;
    this.configurations = new Configurations(registers, memory);
    this.walks = new Walks(registers.features);
    this.#route = new Route(registers.features, memory, VERDICT.abort, {});
    this.#wishes = this.#route.wishes;
  }

  translate(stream: number, substream: number, hi: number, lo: number, access: number): number {
    const isKnown = stream === this.#stream && substream === this.#substream;
    if (isKnown && this.#isPlain) {
      const wish = this.#wishes[access & 15];
      const lg2 = this.iotlb.lookup(this.#space, this.#tag + (wish >> 3), hi, lo, wish & 7);
      if (this.#isAsAsked && wish <= RW) this.iotlb.serve(stream, substream);
      return lg2 >= 0 ? lg2 : this.#miss(this.#route, stream, substream, hi, lo, wish);
    }
    if (!isKnown) this.#select(stream, substream);
    const route = this.#route;
    if (route.verdict !== VERDICT.translate) return this.#untranslated(route, stream, substream, hi, lo, access);
    const wish = route.wishes[access & 15];
    const lg2 = this.iotlb.lookup(route.space, route.tag + (wish >> 3), withoutTag(route.ignoresTop, hi), lo, wish & 7);
    return lg2 >= 0 ? lg2 : this.#miss(route, stream, substream, hi, lo, wish);
  }

  #select(stream: number, substream: number): void {
    const route = this.configurations.route(stream, substream < 0 ? -1 : substream);
    this.#route = route;
    this.#stream = route.verdict === VERDICT.fault ? Number.NaN : stream;
    this.#substream = substream;
    this.#isPlain = route.verdict === VERDICT.translate && route.ignoresTop === 0;
    this.#wishes = route.wishes;
    this.#isAsAsked = route.wishes[READ] === READ && route.wishes[WRITE] === WRITE && route.wishes[RW] === RW;
    this.#space = route.space;
    this.#tag = route.tag;
  }

  #answer(hi: number, lo: number, lg2: number): number {
    this.translated[0] = lo;
    this.translated[1] = hi;
    return lg2;
  }

  #untranslated(route: Route, stream: number, substream: number, hi: number, lo: number, access: number): number {
    if (route.verdict === VERDICT.abort) return FAULT_ABORT;
    const request = { stream, substream, hi, lo, access: route.wishes[access & 15] };
    if (route.fault !== null) return this.#refusals.refuse(route.fault, route, request);
    if ((hi & route.beyond) === 0) return this.#answer(hi, lo, 12);
    return route.entry === null ? FAULT_ABORT : this.#refusals.refuse(TOO_WIDE, route, request);
  }

  #miss(route: Route, stream: number, substream: number, hi: number, lo: number, wish: number): number {
    this.iotlb.misses++;
    const { walks } = this;
    const lg2 = walks.walk(route, hi, lo, wish);
    if (lg2 < 0) return this.#refusals.refuse(walks.fault, route, { stream, substream, hi, lo, access: wish });
    const { out } = walks;
    const high = withoutTag(route.ignoresTop, hi);
    const isGlobal = !walks.notGlobal && route.space !== WORLD_EL2;
    // PAN asks two questions of a page: what the privileged were granted for one access holds for that one alone.
    const keeps = (wish & PRIVILEGED) === 0 || route.context?.restrictsPrivileged !== true;
    if (keeps) this.iotlb.fill(route.space, route.tag + (wish >> 3), high, lo, lg2, this.#kept(route, wish), isGlobal);
    if (route.behind !== null) this.#pieces.add(route.space);
    if (route.context?.isPrivate === true) this.hasPrivate = true;
    else this.hasShared = true;
    return this.#answer(out[OUT_HI], out[OUT_LO], lg2);
  }

  /** What a walk found as it is cached: the first write has a page to mark dirty. */
  #kept({ tracksDirty }: Route, wish: number): Int32Array {
    if (!tracksDirty || (wish & WRITE) !== 0) return this.walks.out;
    this.#fill.set(this.walks.out);
    this.#fill[OUT_PERMISSION] &= ~WRITE;
    return this.#fill;
  }

  /** Whether pages of any world's first stages may be cached in pieces. */
  get hasAnyPieces(): boolean {
    return this.#pieces.size > 0;
  }

  /** Whether pages of the world's first stages may be cached in pieces. */
  hasPieces(world: number): boolean {
    return this.hasAnyPieces && this.#pieces.has(world);
  }

  /** Configurations have been forgotten, or what they follow from has changed. */
  configurationChanged(): void {
    this.#stream = Number.NaN;
    this.iotlb.serveNobody();
  }

  forgetAll(): void {
    this.configurations.forgetAll();
    this.forgetTranslations();
    this.configurationChanged();
  }

  forgetTranslations(): void {
    this.iotlb.invalidateAll();
    this.#pieces.clear();
    this.hasPrivate = false;
    this.hasShared = false;
  }
}

/** An address whose top byte does not count, as it is cached: sign-extended from bit 55 (3.4.1). */
function withoutTag(ignoresTop: number, hi: number): number {
  if (ignoresTop === 0) return hi;
  if ((hi & UPPER) !== 0) return (ignoresTop & 2) !== 0 ? hi | TOP : hi;
  return (ignoresTop & 1) !== 0 ? hi & ~TOP : hi;
}
