import { FAULT_TABLE_ACCESS, faultKind, OUT_HI, OUT_LENGTH, OUT_LO, OUT_PERMISSION, OUT_TYPE } from '../../../pagetable/page-table.ts';
import { BY_FIRST_STAGE } from '../../../pagetable/two-stage.ts';
import type { Features } from '../capabilities.ts';
import type { Fault } from '../reporting/events.ts';
import { CLASS, EVENT } from '../spec/events.ts';
import { LastRead } from './last-read.ts';
import { PassiveMemory } from './passive-memory.ts';
import { Route } from './route.ts';
import { firstStageFault, implicitFault, outputFault } from './walk-faults.ts';

/** Which stages a walk goes through, as GATOS_ADDR.TYPE codes it. */
export const STAGE_1 = 1;
export const STAGE_2 = 2;
export const BOTH = 3;

/** nG, as the walker of stage 1 reports it (DDI 0487, D8.3.1). */
const NOT_GLOBAL = 1 << 11;
/** Bit 55 of an address chooses the table. */
const UPPER = 1 << 23;
const TOO_WIDE: Fault = { number: EVENT.F_ADDR_SIZE, on: CLASS.IN };

/** Walks the tables of a route. */
export class Walks {
  /** The output address, what all stages grant, and the type of the last stage's leaf. */
  readonly out = new Int32Array(OUT_LENGTH);
  /** Stage 1 says that the translation is one of a single ASID (nG). */
  notGlobal = true;
  fault: Fault = TOO_WIDE;
  readonly #features: Features;

  constructor(features: Features) {
    this.#features = features;
  }

  /** lg2 of the page, or -1: `fault` says why. */
  walk(route: Route, hi: number, lo: number, wish: number, stages = BOTH): number {
    const context = (stages & STAGE_1) !== 0 ? route.context : null;
    const second = (stages & STAGE_2) !== 0 ? route.second : null;
    const { out } = this;
    this.notGlobal = true;
    let lg2 = 64;
    let atHi = hi;
    let atLo = lo;
    out[OUT_PERMISSION] = 7;
    if (context !== null) {
      const table = (hi & UPPER) !== 0 ? route.upper : route.lower;
      if (route.behind !== null) route.behind.origin = BY_FIRST_STAGE;
      lg2 = context.walk(table, hi, lo, wish);
      if (table === null || lg2 < 0) return this.#refuseFirst(route, lg2, hi, lo, wish);
      const first = table.out;
      atHi = first[OUT_HI];
      atLo = first[OUT_LO];
      out[OUT_PERMISSION] = first[OUT_PERMISSION];
      out[OUT_TYPE] = first[OUT_TYPE];
      this.notGlobal = (first[OUT_TYPE] & NOT_GLOBAL) !== 0;
    } else if ((hi & route.beyond) !== 0) {
      // 3.4: what bypasses stage 1 is no wider than IAS, which is OAS.
      this.fault = TOO_WIDE;
      return -1;
    }
    if (second !== null) {
      const secondLg2 = second.walk(atHi, atLo, wish);
      if (secondLg2 < 0) return this.#refuseSecond(route, secondLg2, atHi, atLo, wish);
      lg2 = Math.min(lg2, secondLg2);
      out[OUT_PERMISSION] &= second.out[OUT_PERMISSION];
      out[OUT_TYPE] = second.out[OUT_TYPE];
      atHi = second.out[OUT_HI];
      atLo = second.out[OUT_LO];
    }
    out[OUT_LO] = atLo;
    out[OUT_HI] = atHi;
    return lg2 === 64 ? 12 : lg2;
  }

  /** The same without updates of access flags and dirty state, which count as made (chapter 9, HTTUI). */
  passive({ memory, verdict, entry, context }: Route): Route {
    return new Route(this.#features, new PassiveMemory(memory), verdict, { entry, context });
  }

  #refuseFirst(route: Route, code: number, hi: number, lo: number, wish: number): number {
    const { behind } = route;
    const fault = behind !== null && behind.origin !== BY_FIRST_STAGE ? implicitFault(behind, CLASS.TT) : firstStageFault(code);
    this.fault = fault.number === EVENT.F_WALK_EABT ? { ...fault, address: this.#unreadable(route, hi, lo, wish) } : fault;
    return -1;
  }

  #refuseSecond(route: Route, code: number, hi: number, lo: number, wish: number): number {
    const fault = outputFault(code, hi, lo);
    this.fault = faultKind(code) === FAULT_TABLE_ACCESS ? { ...fault, address: this.#lastRead(route, hi, lo, wish) } : fault;
    return -1;
  }

  /** The address of the descriptor that could not be read: the walk again, with somebody watching. */
  #unreadable(route: Route, hi: number, lo: number, wish: number): number {
    const watched = new LastRead(route.memory);
    const { entry, context, verdict } = route;
    const again = new Route(this.#features, watched, verdict, { entry, context });
    context?.walk((hi & UPPER) !== 0 ? again.upper : again.lower, hi, lo, wish);
    return watched.address;
  }

  #lastRead(route: Route, hi: number, lo: number, wish: number): number {
    const watched = new LastRead(route.memory);
    const { entry, context, verdict } = route;
    new Route(this.#features, watched, verdict, { entry, context }).second?.walk(hi, lo, wish);
    return watched.address;
  }
}
