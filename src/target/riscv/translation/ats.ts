import { EXECUTE, PRIVILEGED, READ, WRITE } from '../../../memory/access.ts';
import { hiOf, joinHiLo, loOf } from '../../../memory/address.ts';
import { NO_PASID } from '../../target.ts';
import { AtsCode, type AtsMessage, type RiscvIommuSurroundings } from '../surroundings.ts';
import { isAnswered, Kind } from './requests.ts';
import type { Translator } from './translator.ts';

/** A PCIe ATS translation request (PCI Express Base Specification 6.0, 10.2.2). */
export interface AtsRequest {
  readonly device: number;
  readonly pasid: number | null;
  readonly iova: bigint;
  readonly noWrite?: boolean;
  readonly execute?: boolean;
  readonly privileged?: boolean;
  /** The device is a CXL device of type 1 or 2. */
  readonly cxl?: boolean;
}

/** What a translation request is completed with ("PCIe ATS translation request handling"). */
export interface AtsCompletion {
  readonly status: 'success' | 'unsupported' | 'abort';
  /** Translated page number, the size of the range coded in its low bits when `large` (S). */
  readonly page: bigint;
  readonly large: boolean;
  readonly read: boolean;
  readonly write: boolean;
  readonly execute: boolean;
  readonly global: boolean;
  readonly privileged: boolean;
  readonly cxlIo: boolean;
  /** U: only untranslated requests may be made to the page (an interrupt file in memory). */
  readonly untranslatedOnly: boolean;
}

/** Causes that complete a translation request with Completer Abort; the others are Unsupported Requests. */
const ABORTED: ReadonlySet<number> = new Set([1, 5, 7, 261, 263, 265, 267, 268, 269, 270, 271, 272, 274]);

const NOTHING = { large: false, read: false, write: false, execute: false, global: false, privileged: false } as const;

/** Completes a translation request. */
export function completeTranslation(translator: Translator, t2gpa: () => boolean, request: AtsRequest): AtsCompletion {
  const { device, pasid, iova, noWrite = false, execute = false, privileged = false, cxl = false } = request;
  const access = READ | (noWrite ? 0 : WRITE) | (execute && pasid !== null ? EXECUTE : 0) | (privileged && pasid !== null ? PRIVILEGED : 0);
  const result = translator.request(Kind.ats, device, pasid ?? NO_PASID, hiOf(iova), loOf(iova), access);
  const priv = privileged && pasid !== null;
  if (result < 0) {
    const status = isAnswered(-result) ? 'success' : ABORTED.has(-result) ? 'abort' : 'unsupported';
    return { status, page: iova >> 12n, cxlIo: false, untranslatedOnly: false, ...NOTHING, privileged: priv && status === 'success' };
  }
  const { answer, translated } = translator;
  const guest = t2gpa();
  const address = guest ? joinHiLo(answer.gpaHi, answer.gpaLo) : joinHiLo(translated[1], translated[0]);
  const { permission } = answer;
  const read = (permission & READ) !== 0;
  return {
    status: 'success',
    page: encodeRange(address, result),
    large: result > 12,
    read,
    write: (permission & WRITE) !== 0,
    // Execute only where it was asked for, and where reading is granted too.
    execute: read && execute && (permission & EXECUTE) !== 0,
    global: pasid !== null && !answer.interruptFile && answer.global,
    privileged: priv,
    cxlIo: cxl && (answer.pbmt !== 0 || answer.interruptFile || guest),
    untranslatedOnly: answer.mrif,
  };
}

/** The page number of a range of 2^lg2 bytes, its size coded as ATS and tr_response do: a 0 above as many ones as the size has bits beyond 8 KiB. */
export function encodeRange(address: bigint, lg2: number): bigint {
  const bytes = 1n << BigInt(lg2);
  return ((address & ~(bytes - 1n)) | (bytes / 2n - 1n)) >> 12n;
}

/** An invalidation request that waits for its completions. */
export interface Invalidation {
  busy: boolean;
  requester: number;
  segment: number | null;
  completions: number;
}

/** ITags: "ATS.INVAL" requests under way, each until as many completions came as the device says, or the embedder's timer ends it. */
export class InvalidationTags {
  readonly tags: Invalidation[];
  /** Some request timed out since IOFENCE.C looked last. */
  timedOut = false;
  readonly #surroundings: RiscvIommuSurroundings;

  constructor(count: number, surroundings: RiscvIommuSurroundings) {
    this.tags = Array.from({ length: count }, () => ({ busy: false, requester: 0, segment: null, completions: 0 }));
    this.#surroundings = surroundings;
  }

  get anyBusy(): boolean {
    return this.tags.some(({ busy }) => busy);
  }

  /** Sends an invalidation request under a free tag. False: none is free. */
  request(requester: number, segment: number | null, pasid: number | null, payload: bigint): boolean {
    const tag = this.tags.findIndex(({ busy }) => !busy);
    if (tag < 0) return false;
    Object.assign(this.tags[tag], { busy: true, requester, segment, completions: 0 });
    this.#send({ code: AtsCode.invalidationRequest, tag, requester, segment, pasid, payload });
    return true;
  }

  /** Sends a page request group response. */
  respond(requester: number, segment: number | null, pasid: number | null, payload: bigint): void {
    this.#send({ code: AtsCode.pageGroupResponse, tag: 0, requester, segment, pasid, payload });
  }

  #send(message: Omit<AtsMessage, 'privileged' | 'execute'>): void {
    this.#surroundings.sendMessage?.({ ...message, privileged: false, execute: false });
  }

  /** An invalidation completion: ITag vector in payload 31:0, completion count in 34:32. False: nobody waits for it. */
  complete({ requester, segment, payload }: Pick<AtsMessage, 'requester' | 'segment' | 'payload'>): boolean {
    const vector = loOf(payload);
    const count = hiOf(payload) & 7;
    for (const [tag, waiting] of this.tags.entries()) {
      if ((vector & (1 << tag)) === 0) continue;
      if (!waiting.busy || waiting.requester !== requester) return false;
      if (waiting.segment !== null && waiting.segment !== segment) return false;
      waiting.completions = (waiting.completions + 1) & 7;
      if (waiting.completions === count) waiting.busy = false;
    }
    return true;
  }

  /** The requests of a vector of tags were not completed in time. */
  expire(vector: number): void {
    for (const [tag, waiting] of this.tags.entries()) if ((vector & (1 << tag)) !== 0) waiting.busy = false;
    this.timedOut = true;
  }

  reset(): void {
    for (const tag of this.tags) Object.assign(tag, { busy: false, requester: 0, segment: null, completions: 0 });
    this.timedOut = false;
  }
}
