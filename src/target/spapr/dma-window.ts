import { hiOf, loOf, PAGE_LG2, pfnOf, pfnOfHiLo } from '../../memory/address.ts';
import type { AddressSpace } from '../target.ts';
import { type TceBudget, TceTable } from './tce-table.ts';

/** A DMA window of a bridge, as the device tree's "ibm,dma-window" or ibm,create-pe-dma-window defines it. */
export interface DmaWindowGeometry {
  /** Logical I/O bus number: which table a hypercall means. 32 bits, not 0. */
  readonly liobn: number;
  /** Bus address of the first byte; a multiple of the page size. */
  readonly start: bigint;
  /** lg2 of the I/O page size in bytes: 12 to 34. */
  readonly pageLg2: number;
  /** TCEs in the table: 1 to 2^31. */
  readonly pages: number;
}

export const MAX_PAGE_LG2 = 34;
export const MAX_WINDOW_PAGES = 2 ** 31;

/** PAGE_LG2, here because the compiler folds a module's own constants only. */
const PAGE_SHIFT = 12;

/** One DMA window with its TCEs. Places beyond its first 4 GiB are found on exact doubles: borrowing between int32 halves takes longer. */
export class DmaWindow {
  /** The bridge's address space, of which it is a part. */
  readonly space: AddressSpace;
  readonly liobn: number;
  readonly start: bigint;
  // Fields that begin as what they are stay typed for the compiler; one that begins undefined is checked at each use.
  readonly pageLg2: number = 0;
  readonly pages: number = 0;
  /** The bridge came up with this window; it was not created by the guest (7.3.27.3). */
  readonly isDefault: boolean;
  readonly table: TceTable;
  /** 4 KiB pages of the bus that one TCE covers. */
  readonly grain: number = 0;
  /** Closed range of the bus's page frame numbers. */
  readonly first: number;
  readonly last: number;
  /** Bits of an address that lie within an I/O page. */
  readonly offsetHi: number = 0;
  readonly offsetLo: number = 0;
  readonly #scale: number;
  /** Of `start`: its frame of 4 GiB, and its page in it; then lg2 of `grain`. */
  readonly #frame: number = 0;
  readonly #page: number = 0;
  readonly #grainLg2: number = 0;

  constructor(space: AddressSpace, geometry: DmaWindowGeometry, isDefault: boolean, budget: TceBudget) {
    const { liobn, start, pageLg2, pages } = geometry;
    this.space = space;
    this.liobn = liobn;
    this.start = start;
    this.pageLg2 = pageLg2;
    this.pages = pages;
    this.isDefault = isDefault;
    this.table = new TceTable(pages, budget);
    this.grain = 1 << (pageLg2 - PAGE_LG2);
    this.first = pfnOf(start);
    this.last = this.first + pages * this.grain - 1;
    const offset = (1n << BigInt(pageLg2)) - 1n;
    this.offsetHi = hiOf(offset);
    this.offsetLo = loOf(offset);
    this.#scale = 1 / this.grain;
    this.#frame = hiOf(start);
    this.#page = loOf(start) >>> PAGE_LG2;
    this.#grainLg2 = pageLg2 - PAGE_LG2;
  }

  /** Index of the TCE that translates a page of the bus, or -1 when it lies outside. */
  indexOfPfn(pfn: number): number {
    return pfn < this.first || pfn > this.last ? -1 : ((pfn - this.first) * this.#scale) | 0;
  }

  /** The same for an I/O bus address that a hypercall names: it must be the first byte of an I/O page too. */
  indexOfIoba(hi: number, lo: number): number {
    return ((hi & this.offsetHi) | (lo & this.offsetLo)) === 0 ? this.indexOf(hi, lo) : -1;
  }

  /** The same for an address. */
  indexOf(hi: number, lo: number): number {
    if (hi !== this.#frame) return this.indexOfPfn(pfnOfHiLo(hi, lo));
    // In the frame in which the window begins, as most are: int32 all the way.
    const page = (lo >>> PAGE_SHIFT) - this.#page;
    const index = page >> this.#grainLg2;
    return page >= 0 && index < this.pages ? index : -1;
  }

  /** Guest page that a TCE names; the bits below the I/O page are not part of its real page number. */
  gpaOfTce(hi: number, lo: number): number {
    return pfnOfHiLo(hi & ~this.offsetHi, lo & ~this.offsetLo);
  }
}
