import { targetFault } from '../../fault-codes.ts';
import { isSet } from '../../fields.ts';
import { CD } from '../spec/cd.ts';
import { EVENT } from '../spec/events.ts';
import { FAULT_RAZ_WI, FAULT_STALLED } from '../spec/faults.ts';
import { STE } from '../spec/ste.ts';
import type { Route } from '../translation/route.ts';
import { type Events, type Fault, isTranslationFault, type Request } from './events.ts';
import type { Stalls } from './stalls.ts';

/** Fault behaviour, 5.5: whether a request aborts, is ignored or stalls, and whether it is recorded. */
export class Refusals {
  readonly #events: Events;
  readonly #stalls: Stalls;
  readonly #recordsStreams: () => boolean;

  constructor(events: Events, stalls: Stalls, recordsStreams: () => boolean) {
    this.#events = events;
    this.#stalls = stalls;
    this.#recordsStreams = recordsStreams;
  }

  /** Answers what `translate` does. */
  refuse(fault: Fault, { entry, context }: Route, request: Request): number {
    const { number, s2 = false } = fault;
    if (!isTranslationFault(number)) {
      this.configuration(fault, request);
      return targetFault('smmuv3', number);
    }
    // A stage 1 that is bypassed has no A, R and S: such faults are recorded and abort (3.4).
    const cd = !s2 && context !== null ? context.words : null;
    const ste = s2 && entry !== null ? entry.words : null;
    const stalls = (cd !== null && isSet(cd, CD.S)) || (ste !== null && isSet(ste, STE.S2S));
    if (stalls && this.#stalls.areTaken) {
      this.#stalls.begin(fault, request);
      return FAULT_STALLED;
    }
    if (stalls || ((cd === null || isSet(cd, CD.R)) && (ste === null || isSet(ste, STE.S2R)))) this.#events.record(fault, request);
    return cd !== null && !isSet(cd, CD.A) ? FAULT_RAZ_WI : targetFault('smmuv3', number);
  }

  /** C_BAD_STREAMID is recorded where CR2.RECINVSID asks for it; the other configuration errors always. */
  configuration(fault: Fault, request: Request): void {
    if (fault.number !== EVENT.C_BAD_STREAMID || this.#recordsStreams()) this.#events.record(fault, request);
  }
}
