import { PAGE_BYTES, pfnOf } from '../../memory/address.ts';
import type { GuestMemory } from '../../memory/guest-memory.ts';

/** Which guest pages are RAM: a page that a TCE names must be all inside (LoPAR 14.5.4.2.2: "the range of … assigned values"). */
export class GuestRam {
  /** First page and one past the last of each stretch of RAM, ascending; neighbours are joined. */
  readonly #firsts: Float64Array;
  readonly #ends: Float64Array;
  /** The stretch that held the last page asked for. */
  #first = 0;
  #end = 0;

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

  /** Whether [pfn, pfn + pages) is RAM without a hole. */
  holds(pfn: number, pages: number): boolean {
    return (pfn >= this.#first && pfn + pages <= this.#end) || this.#search(pfn, pages);
  }

  #search(pfn: number, pages: number): boolean {
    for (let i = 0; i < this.#firsts.length; i++) {
      if (pfn >= this.#ends[i]) continue;
      this.#first = this.#firsts[i];
      this.#end = this.#ends[i];
      return pfn >= this.#first && pfn + pages <= this.#end;
    }
    return false;
  }
}
