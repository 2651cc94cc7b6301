import { PAGE_BYTES, PAGE_LG2, pfnOf, pfnOfHiLo } from '../../memory/address.ts';
import type { GuestMemory } from '../../memory/guest-memory.ts';
import type { DmaWindow } from './dma-window.ts';
import { TCE_PERMISSION } from './papr.ts';
import type { TceArray } from './tce-table.ts';

/** 4 KiB pages in a frame of 4 GiB: what the upper half of an address counts. */
const FRAME_PAGES = 2 ** 20;

/** Which guest pages are RAM: a page that a TCE names must be all inside (LoPAR 14.5.4.2.2: "the range of … assigned values"). */
export class GuestRam {
  /** First page and one past the last of each stretch of RAM, ascending; neighbours are joined. */
  readonly #firsts: Float64Array;
  readonly #ends: Float64Array;
  /** What the stretch that answered last has in one frame: the frame, and pages within it. */
  #frame = 0;
  #from = 0;
  #to = 0;

  constructor(memory: GuestMemory) {
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
    return (lo & TCE_PERMISSION) === 0 || this.#holds(hi & ~window.offsetHi, lo & ~window.offsetLo, window.grain);
  }

  /** The same of the first `count` TCEs of an array; the frame and the limits stay in registers meanwhile. */
  allowsAll(window: DmaWindow, tces: TceArray, count: number): boolean {
    const { view } = tces;
    const { grain } = window;
    const highs = ~window.offsetHi;
    const lows = ~window.offsetLo;
    let frame = this.#frame;
    let from = this.#from;
    let places = Math.max(this.#to - from - grain + 1, 0);
    for (let at = 0; at < 8 * count; at += 8) {
      const lo = view.getInt32(at + 4);
      if ((lo & TCE_PERMISSION) === 0) continue;
      const hi = view.getInt32(at) & highs;
      if (hi === frame && (((lo & lows) >>> PAGE_LG2) - from) >>> 0 < places) continue;
      if (!this.#holds(hi, lo & lows, grain)) return false;
      frame = this.#frame;
      from = this.#from;
      places = Math.max(this.#to - from - grain + 1, 0);
    }
    return true;
  }

  /** Whether the `pages` pages from an address's page on are RAM without a hole. */
  #holds(hi: number, lo: number, pages: number): boolean {
    const page = lo >>> PAGE_LG2;
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
