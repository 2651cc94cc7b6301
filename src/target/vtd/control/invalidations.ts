import { PAGE_LG2, PFN_LIMIT, pfnOfHiLo } from '../../../memory/address.ts';
import { type Iotlb, NO_CONTEXT } from '../../../memory/iotlb.ts';
import type { Spaces } from '../spaces.ts';
import type { Contexts } from '../translation/contexts.ts';
import { firstStageSpace } from '../translation/stages.ts';
import type { Translator } from '../translation/translator.ts';
import type { Registers } from './registers.ts';

/** Which function bits of a source do not count, by function mask (table 21). */
const FUNCTION_MASKS = [0, 4, 6, 7];

/** By address mask, as a field can say it: pages that it makes of one; an address has no more bits. */
const PAGES = Float64Array.from({ length: 64 }, (_, lg2) => Math.min(2 ** lg2, PFN_LIMIT));

/** What invalidations do, whoever asks for them: caches forget, observers hear. Tables 23 and 24 say who is named. */
export class Invalidations {
  readonly #registers: Registers;
  readonly #contexts: Contexts;
  readonly #translator: Translator;
  readonly iotlb: Iotlb;
  readonly #spaces: Spaces;
  /** Bits of the upper half of an address that a second stage can name: those above MGAW do not count. */
  readonly inputHi: number;

  constructor(registers: Registers, contexts: Contexts, translator: Translator, spaces: Spaces, inputBits: number) {
    this.#registers = registers;
    this.#contexts = contexts;
    this.#translator = translator;
    this.iotlb = translator.iotlb;
    this.#spaces = spaces;
    this.inputHi = (2 ** (inputBits - 32) - 1) | 0;
  }

  /** All of the context- and PASID-caches: global, of a domain (6.5.2.1, 6.5.2.2), or as pointers and modes change. */
  everyContext(): void {
    this.#contexts.forgetAll();
    this.#translator.forgetLast();
    this.#spaces.refreshAll();
  }

  /** Context-cache, device-selective. */
  contextsOf(source: number, functionMask: number): void {
    const mask = FUNCTION_MASKS[functionMask];
    for (let part = 0; part < 8; part++) {
      const device = (source & ~7) | part;
      if ((device & ~mask) !== (source & ~mask)) continue;
      this.#contexts.forgetDevice(device);
      this.#translator.forgetLast();
      this.#spaces.refresh(device);
    }
  }

  /** PASID-cache, PASID-selective: the entry is read again, and may be one that was not there before. */
  process(pasid: number): void {
    this.#contexts.forgetAll();
    this.#translator.forgetLast();
    this.#spaces.refreshProcess(pasid);
  }

  /** IOTLB, global. */
  everyTranslation(): void {
    this.iotlb.invalidateAll();
    this.#spaces.changedDomain(-1);
  }

  /** IOTLB, domain-selective. */
  domain(domain: number): void {
    const iotlb = this.iotlb;
    iotlb.invalidateSpace(domain);
    if (!this.#registers.isLegacy) iotlb.invalidateSpace(firstStageSpace(domain));
    this.#spaces.changedDomain(domain);
  }

  /** IOTLB, page-selective within a domain: 2^lg2 pages of the second stage, and all that a first stage translates. */
  pages(domain: number, hi: number, lo: number, lg2: number): void {
    const { iotlb } = this;
    iotlb.invalidateBlock(domain, NO_CONTEXT, hi & this.inputHi, lo, PAGE_LG2 + lg2);
    if (!this.#registers.isLegacy) iotlb.invalidateSpace(firstStageSpace(domain));
    if (!this.#spaces.isObserved) return;
    const first = firstOf(hi & this.inputHi, lo, lg2);
    this.#spaces.changedSecond(domain, first, first + PAGES[lg2] - 1);
  }

  /** PASID-based IOTLB, PASID-selective: a second stage's translations carry no PASID here, so all of the domain's go. */
  processTranslations(domain: number, pasid: number): void {
    const iotlb = this.iotlb;
    iotlb.invalidateContext(firstStageSpace(domain), pasid);
    iotlb.invalidateContext(domain, NO_CONTEXT);
    this.#spaces.changedFirst(domain, pasid, 0, PFN_LIMIT - 1);
    this.#spaces.changedSecondOnly(domain);
  }

  /** PASID-based IOTLB, page-selective: 2^lg2 pages of the first stage, lg2 up to 63. */
  processPages(domain: number, pasid: number, hi: number, lo: number, lg2: number): void {
    this.iotlb.invalidateBlock(firstStageSpace(domain), pasid, hi, lo, Math.min(PAGE_LG2 + lg2, 64));
    if (!this.#spaces.isObserved) return;
    const first = firstOf(hi, lo, lg2);
    this.#spaces.changedFirst(domain, pasid, first, first + PAGES[lg2] - 1);
  }
}

/** The first of the pages that an address with its mask names. */
function firstOf(hi: number, lo: number, lg2: number): number {
  const page = pfnOfHiLo(hi, lo);
  return lg2 === 0 ? page : Math.floor(page / PAGES[lg2]) * PAGES[lg2];
}
