import { PAGE_BYTES, PAGE_LG2, pfnOf, pfnOfHiLo } from '../../memory/address.ts';
import type { GuestMemory } from '../../memory/guest-memory.ts';
import type { DmaWindow } from './dma-window.ts';
import type { TceArray } from './tce-table.ts';

/** What the upper half of an address counts: frames of 4 GiB. */
const FRAME_LG2 = 32;
const FRAME_PAGES = 2 ** (FRAME_LG2 - PAGE_LG2);

/** PAGE_LG2 and TCE_PERMISSION, here because the compiler folds a module's own constants only. */
const PAGE_SHIFT = 12;
const PERMISSION = 3;
/** For the test that compares them with their declaration. */
export const REPEATED = { PAGE_SHIFT, PERMISSION } as const;

/** Which guest pages are RAM: a page that a TCE names must be all inside (LoPAR 14.5.4.2.2: "the range of … assigned values"). */
export class GuestRam {
  /** First page and one past the last of each stretch of RAM, ascending; neighbours are joined. */
  #firsts = new Float64Array(0);
  #ends = new Float64Array(0);
  /** What the stretch that answered last has in one frame: the frame, and pages within it. */
  #frame = 0;
  #from = 0;
  #to = 0;

  constructor(memory: GuestMemory) {
    this.#take(memory);
    memory.observe(() => this.#take(memory));
  }

  #take(memory: GuestMemory): void {
    this.#from = 0;
    this.#to = 0;
    const stretches: { first: number; end: number }[] = [];
    const regions = memory.regions.map((region) => {
      const first = pfnOf(region.gpa);
      return { first, end: first + (region.bytes ?? region.buffer.byteLength - (region.offset ?? 0)) / PAGE_BYTES };
    });
    for (const region of regions.sort((a, b) => a.first - b.first)) {
      const last = stretches.at(-1);
      if (last?.end === region.first) last.end = region.end;
      else stretches.push(region);
    }
    this.#firsts = Float64Array.from(stretches, (stretch) => stretch.first);
    this.#ends = Float64Array.from(stretches, (stretch) => stretch.end);
  }

  /** Whether a TCE may stand in a window: one that grants an access names an I/O page that is all RAM (14.5.4.2.2). */
  allows(window: DmaWindow, hi: number, lo: number): boolean {
    return (lo & PERMISSION) === 0 || this.#holds(hi & ~window.offsetHi, lo & ~window.offsetLo, window.grain);
  }

  /** The same of the first `count` TCEs of an array. */
  allowsAll(window: DmaWindow, tces: TceArray, count: number): boolean {
    for (let at = this.#allowedTo(window, tces, 0, count); at < count; at = this.#allowedTo(window, tces, at + 1, count))
      if (!this.allows(window, tces.hi(at), tces.lo(at))) return false;
    return true;
  }

  /**
   * Which of `tces[at, count)` is the first that may not stand, as far as the stretch of the last answer tells; `count`: all may. The
   * hot loop of a list: its limits count I/O pages in one frame, so a TCE costs two loads, a shift and three compares.
   */
  #allowedTo(window: DmaWindow, { view }: TceArray, at: number, count: number): number {
    const { pageLg2, grain } = window;
    if (pageLg2 >= FRAME_LG2) return at;
    const frame = this.#frame;
    const from = Math.ceil(this.#from / grain) | 0;
    const places = (Math.max(Math.floor(this.#to / grain) - from, 0) | 0) >>> 0;
    let byte = at << 3;
    // Two at a time as long as both may stand: half of what the loop itself costs.
    for (const lastPair = (count - 1) << 3; byte < lastPair; byte += 16) {
      const lo = view.getInt32(byte + 4);
      const next = view.getInt32(byte + 12);
      if ((lo & PERMISSION) === 0 || (next & PERMISSION) === 0) break;
      if (((view.getInt32(byte) ^ frame) | (view.getInt32(byte + 8) ^ frame)) !== 0) break;
      if (((lo >>> pageLg2) - from) >>> 0 >= places || ((next >>> pageLg2) - from) >>> 0 >= places) break;
    }
    for (; byte < count << 3; byte += 8) {
      const lo = view.getInt32(byte + 4);
      if ((lo & PERMISSION) === 0) continue;
      if (view.getInt32(byte) !== frame || ((lo >>> pageLg2) - from) >>> 0 >= places) return byte >>> 3;
    }
    return count;
  }

  /** Whether the `pages` pages from an address's page on are RAM without a hole. */
  #holds(hi: number, lo: number, pages: number): boolean {
    const page = lo >>> PAGE_SHIFT;
    return (hi === this.#frame && page >= this.#from && page + pages <= this.#to) || this.#search(hi, lo, pages);
  }

  #search(hi: number, lo: number, pages: number): boolean {
    const pfn = pfnOfHiLo(hi, lo);
    for (let i = 0; i < this.#firsts.length; i++) {
      if (pfn >= this.#ends[i]) continue;
      if (pfn < this.#firsts[i]) return false;
      const base = pfn - (lo >>> PAGE_LG2);
      this.#frame = hi;
      // Kept as int32, which `| 0` makes sure of: as doubles they would be boxed.
      this.#from = Math.max(this.#firsts[i] - base, 0) | 0;
      this.#to = Math.min(this.#ends[i] - base, FRAME_PAGES) | 0;
      return pfn + pages <= this.#ends[i];
    }
    return false;
  }
}
