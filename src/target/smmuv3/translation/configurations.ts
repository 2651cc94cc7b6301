import type { GuestMemory } from '../../../memory/guest-memory.ts';
import type { TableMemory } from '../../../pagetable/page-table.ts';
import { BY_FIRST_STAGE, SecondStageMemory } from '../../../pagetable/two-stage.ts';
import { get, isSet } from '../../fields.ts';
import type { Registers } from '../control/registers.ts';
import type { Fault } from '../reporting/events.ts';
import { CD_BYTES } from '../spec/cd.ts';
import { CLASS, EVENT } from '../spec/events.ts';
import { CR2, GBPA, REG } from '../spec/registers.ts';
import { S1DSS, STE, STE_BYTES } from '../spec/ste.ts';
import { Context } from './context.ts';
import { readContext } from './context-table.ts';
import { LastRead } from './last-read.ts';
import { PassiveMemory } from './passive-memory.ts';
import { contextMemory, Route, VERDICT } from './route.ts';
import { StreamEntry } from './stream-entry.ts';
import { readStreamEntry } from './stream-table.ts';
import { implicitFault } from './walk-faults.ts';

/** Routes remembered at most; one more, and all are forgotten. */
const ROUTES = 1 << 14;

const fault = (number: number): Fault => ({ number });
const BAD_STREAM = fault(EVENT.C_BAD_STREAMID);
const BAD_STE = fault(EVENT.C_BAD_STE);
const BAD_SUBSTREAM = fault(EVENT.C_BAD_SUBSTREAMID);
const DISABLED = fault(EVENT.F_STREAM_DISABLED);
const BAD_CD = fault(EVENT.C_BAD_CD);

interface Known {
  readonly entry: StreamEntry;
  readonly routes: Map<number, Route>;
}

/** Stream table entries and context descriptors: found, checked in the order of 7.3.22, and cached where they are right. */
export class Configurations {
  readonly #registers: Registers;
  readonly #memory: GuestMemory;
  readonly #known = new Map<number, Known>();
  #count = 0;

  constructor(registers: Registers, memory: GuestMemory) {
    this.#registers = registers;
    this.#memory = memory;
  }

  /** Where requests with this substream (-1: without) go. */
  route(stream: number, substream: number): Route {
    if (!this.#registers.isOn) return this.#off();
    const known = this.#known.get(stream)?.routes.get(substream);
    if (known !== undefined) return known;
    const entry = this.entry(stream);
    if (!(entry instanceof StreamEntry)) return this.#route(VERDICT.fault, null, null, entry);
    const route = this.#find(entry, substream, this.#memory);
    if (route.verdict !== VERDICT.fault) this.#keep(entry, substream, route);
    return route;
  }

  /** The same, the descriptor fetched without updates of stage 2's access flags, and nothing remembered (chapter 9, HTTUI). */
  passiveRoute(entry: StreamEntry, substream: number): Route {
    return this.#find(entry, substream, new PassiveMemory(this.#memory));
  }

  /** Stage 2 alone of an entry that has it: for what comes with an intermediate address. */
  stage2Route(entry: StreamEntry): Route {
    return this.#route(VERDICT.translate, entry);
  }

  /** A stream's entry, or what is wrong with it: C_BAD_STREAMID, F_STE_FETCH, C_BAD_STE. */
  entry(stream: number): StreamEntry | Fault {
    const known = this.#known.get(stream);
    if (known !== undefined) return known.entry;
    if (!Number.isInteger(stream) || stream < 0) return BAD_STREAM;
    const words = new Int32Array(STE_BYTES / 4);
    const missing = readStreamEntry(this.#registers, this.#memory, stream, words);
    if (missing !== null) return missing;
    const entry = new StreamEntry(stream, words, this.#registers.features, this.#registers.cr2(CR2.E2H));
    return entry.illegal === null ? entry : BAD_STE;
  }

  /** CFGI_STE. */
  forgetStream(stream: number): void {
    this.#known.delete(stream);
  }

  /** CFGI_CD: what uses the descriptor of an index. */
  forgetContext(stream: number, index: number): void {
    const routes = this.#known.get(stream)?.routes;
    routes?.delete(index);
    // Without a substream it is index 0 that is used, if any.
    if (index === 0) routes?.delete(-1);
  }

  forgetAll(): void {
    this.#known.clear();
    this.#count = 0;
  }

  #keep(entry: StreamEntry, substream: number, route: Route): void {
    if (++this.#count > ROUTES) this.forgetAll();
    const known = this.#known.get(entry.stream);
    if (known !== undefined) known.routes.set(substream, route);
    else this.#known.set(entry.stream, { entry, routes: new Map([[substream, route]]) });
  }

  #route(verdict: number, entry: StreamEntry | null, context: Context | null = null, refusal: Fault | null = null): Route {
    return new Route(this.#registers.features, this.#memory, verdict, { entry, context, fault: refusal });
  }

  /** SMMUEN = 0: GBPA decides (6.3.14). */
  #off(): Route {
    return this.#route(isSet(this.#registers.view(REG.GBPA), GBPA.ABORT) ? VERDICT.abort : VERDICT.bypass, null);
  }

  /** `memory`: what descriptors are fetched from. */
  #find(entry: StreamEntry, substream: number, memory: TableMemory): Route {
    if (!entry.passes) return this.#route(VERDICT.abort, entry);
    const refused = (refusal: Fault) => this.#route(VERDICT.fault, entry, null, refusal);
    // 7.3.9.
    if (substream >= 0 && substream >= (entry.substreamBits === 0 ? 0 : 2 ** entry.substreamBits)) return refused(BAD_SUBSTREAM);
    if (!entry.s1) return this.#route(entry.s2 ? VERDICT.translate : VERDICT.bypass, entry);
    if (entry.substreamBits > 0) {
      const dss = get(entry.words, STE.S1DSS);
      if (substream < 0 && dss === S1DSS.bypass) return this.#route(entry.s2 ? VERDICT.translate : VERDICT.bypass, entry);
      // 7.3.7.
      if (substream < 0 && dss !== S1DSS.substream0) return refused(DISABLED);
      if (substream === 0 && dss === S1DSS.substream0) return refused(DISABLED);
    }
    const context = this.#context(entry, Math.max(substream, 0), memory);
    return context instanceof Context ? this.#route(VERDICT.translate, entry, context) : refused(context);
  }

  #context(entry: StreamEntry, index: number, memory: TableMemory): Context | Fault {
    const { features } = this.#registers;
    const behind = contextMemory(entry, features, memory);
    const words = new Int32Array(CD_BYTES / 4);
    const missing = readContext(this.#registers, behind, entry, index, words);
    if (behind instanceof SecondStageMemory && behind.origin !== BY_FIRST_STAGE) {
      const refusal = implicitFault(behind, CLASS.CD);
      return refusal.number === EVENT.F_WALK_EABT ? { ...refusal, address: this.#unreadable(entry, index, memory) } : refusal;
    }
    if (missing !== null) return missing;
    const context = new Context(words, entry, features);
    return context.illegal === null ? context : BAD_CD;
  }

  /** The address of the stage 2 descriptor that could not be read: the fetch again, with somebody watching. */
  #unreadable(entry: StreamEntry, index: number, memory: TableMemory): number {
    const watched = new LastRead(memory);
    readContext(this.#registers, contextMemory(entry, this.#registers.features, watched), entry, index, new Int32Array(CD_BYTES / 4));
    return watched.address;
  }
}
