import { PRIVILEGED, WRITE } from '../../../memory/access.ts';
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

/** VERDICT.translate, for the hot path. */
const TRANSLATE = 0;
/** For the test that compares them with their declarations. */
export const REPEATED = { TRANSLATE } as const;
/** Bit 55, and the bits above it. */
const UPPER = 1 << 23;
const TOP = 0xff << 24;
const TOO_WIDE: Fault = { number: EVENT.F_ADDR_SIZE, on: CLASS.IN };

/** Translates requests: configurations and translations are cached until the guest invalidates them. */
export class Translator {
  readonly translated = new Int32Array(2);
  readonly iotlb: Iotlb;
  readonly configurations: Configurations;
  readonly walks: Walks;
  readonly #refusals: Refusals;
  readonly #fill = new Int32Array(OUT_LENGTH);
  /** Worlds with cached translations of both stages: pages of stage 1 may be cached in pieces. */
  readonly #pieces = new Set<number>();
  #stream = Number.NaN;
  #substream = -1;
  #route: Route;

  constructor(registers: Registers, refusals: Refusals, { memory, iotlbEntries = 65536 }: Smmuv3Options) {
    this.#refusals = refusals;
    this.iotlb = new Iotlb(iotlbEntries);
    this.configurations = new Configurations(registers, memory);
    this.walks = new Walks(registers.features, memory);
    this.#route = new Route(registers.features, memory, VERDICT.abort, {});
  }

  translate(stream: number, substream: number, hi: number, lo: number, access: number): number {
    if (stream !== this.#stream || substream !== this.#substream) this.#select(stream, substream);
    const route = this.#route;
    if (route.verdict !== TRANSLATE) return this.#untranslated(route, stream, substream, hi, lo, access);
    const wish = route.wishes[access & 15];
    const high = route.ignoresTop === 0 ? hi : withoutTag(route.ignoresTop, hi);
    const lg2 = this.iotlb.lookup(route.space, route.tag + (wish >> 3), high, lo, wish & 7);
    if (lg2 < 0) return this.#miss(route, stream, substream, hi, lo, wish);
    const { out } = this.iotlb;
    return this.#answer(out[OUT_HI], out[OUT_LO], lg2);
  }

  #select(stream: number, substream: number): void {
    this.#route = this.configurations.route(stream, substream < 0 ? -1 : substream);
    this.#stream = this.#route.verdict === VERDICT.fault ? Number.NaN : stream;
    this.#substream = substream;
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
    const { walks } = this;
    const lg2 = walks.walk(route, hi, lo, wish);
    if (lg2 < 0) return this.#refusals.refuse(walks.fault, route, { stream, substream, hi, lo, access: wish });
    const { out } = walks;
    this.#fill.set(out);
    // The first write has a page to mark dirty.
    if (route.tracksDirty && (wish & WRITE) === 0) this.#fill[OUT_PERMISSION] &= ~WRITE;
    const high = route.ignoresTop === 0 ? hi : withoutTag(route.ignoresTop, hi);
    const isGlobal = !walks.notGlobal && route.space !== WORLD_EL2;
    // PAN asks two questions of a page: what the privileged were granted for one access holds for that one alone.
    const keeps = (wish & PRIVILEGED) === 0 || route.context?.restrictsPrivileged !== true;
    if (keeps) this.iotlb.fill(route.space, route.tag + (wish >> 3), high, lo, lg2, this.#fill, isGlobal);
    if (route.behind !== null) this.#pieces.add(route.space);
    return this.#answer(out[OUT_HI], out[OUT_LO], lg2);
  }

  /** Whether pages of the world's first stages may be cached in pieces. */
  hasPieces(world: number): boolean {
    return this.#pieces.has(world);
  }

  /** Configurations have been forgotten, or what they follow from has changed. */
  configurationChanged(): void {
    this.#stream = Number.NaN;
  }

  forgetAll(): void {
    this.configurations.forgetAll();
    this.forgetTranslations();
    this.configurationChanged();
  }

  forgetTranslations(): void {
    this.iotlb.invalidateAll();
    this.#pieces.clear();
  }
}

/** An address whose top byte does not count, as it is cached: sign-extended from bit 55 (3.4.1). */
function withoutTag(ignoresTop: number, hi: number): number {
  if ((hi & UPPER) !== 0) return (ignoresTop & 2) !== 0 ? hi | TOP : hi;
  return (ignoresTop & 1) !== 0 ? hi & ~TOP : hi;
}
