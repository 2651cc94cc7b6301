import { READ_WRITE } from '../../memory/access.ts';
import { PAGE_BYTES, pfnOf } from '../../memory/address.ts';
import type { GuestMemory } from '../../memory/guest-memory.ts';
import { S390Table } from '../../pagetable/s390.ts';
import { get, isSet } from '../fields.ts';
import { IdentitySpace } from '../identity-space.ts';
import { LargeLeaves } from '../large-leaves.ts';
import type { AddressSpace, PfnRange, RunVisitor } from '../target.ts';
import { IOTA } from './spec/anchor.ts';

/** Table entries that one enumeration reads at most: 2 GiB of 4 KiB pages. */
export const ENTRY_BUDGET = 1 << 19;

/** 16 KiB: what an anchor's origin is aligned to. */
const TABLE_BYTES = 1 << 14;

/** What a guest registers for a function: PBA, PAL (whole pages) and anchor. */
export interface Registration {
  readonly pba: bigint;
  readonly pal: bigint;
  readonly iota: bigint;
}

/** What a registration means. */
export type FunctionTranslation = TableSpace | RelaxedSpace;

/** The tables that the anchor designates, between PBA and PAL. */
export class TableSpace implements AddressSpace {
  readonly name: string;
  readonly owner = 'guest';
  readonly announced = true;
  readonly granuleLg2 = 12;
  readonly apertures: readonly PfnRange[];
  /** First and last page. */
  readonly first: number;
  readonly last: number;
  /** What of them the tables can translate at all: less where a segment table has to serve more than 2 GiB. */
  readonly lastTranslated: number;
  readonly table: S390Table;
  /** Frames that enumerations met: a refresh of one page takes all of the frame that covered it. */
  readonly leaves = new LargeLeaves();
  readonly isProtected: boolean;
  /** Levels above the page tables, and the first of them. */
  readonly top: number;
  readonly origin: number;

  constructor(fid: number, { pba, pal, iota }: Registration, memory: GuestMemory) {
    const words = Int32Array.of(Number(BigInt.asIntN(32, iota)));
    const levels = get(words, IOTA.DT) + 2;
    this.name = `function 0x${fid.toString(16)}, anchor 0x${iota.toString(16)}`;
    this.first = pfnOf(pba);
    this.last = pfnOf(pal);
    this.lastTranslated = Math.min(this.last, 2 ** (9 + 11 * levels - 12) - 1);
    this.apertures = this.first <= this.lastTranslated ? [{ first: this.first, last: this.lastTranslated }] : [];
    this.isProtected = isSet(words, IOTA.PROTECTION);
    this.top = levels - 1;
    this.origin = Number(iota / BigInt(TABLE_BYTES)) * (TABLE_BYTES / PAGE_BYTES);
    this.table = new S390Table(memory, { root: this.origin, levels, protected: this.isProtected, edat: 2 });
    this.table.largeLeaf = (page, lg2) => this.leaves.add(page, lg2);
  }

  /** Reads at most ENTRY_BUDGET entries. */
  enumerate(first: number, last: number, visit: RunVisitor): number {
    const from = Math.max(first, this.first);
    const to = Math.min(last, this.lastTranslated);
    if (from > to) return last + 1;
    const reached = this.table.enumerate(from, to, visit, ENTRY_BUDGET);
    return reached > to ? last + 1 : reached;
  }
}

/** Relaxed translation, IOTA.T = 0: guest RAM, above the start of the aperture (QEMU: s390_pci_iommu_direct_map_enable). */
export class RelaxedSpace implements AddressSpace {
  readonly name: string;
  readonly owner = 'guest';
  readonly announced = true;
  readonly granuleLg2 = 12;
  readonly apertures: readonly PfnRange[];
  readonly first: number;
  readonly last: number;
  /** Page that guest page 0 is at. */
  readonly base: number;
  readonly #ram: IdentitySpace;

  constructor(fid: number, { pba, pal }: Registration, base: number, memory: GuestMemory) {
    this.name = `function 0x${fid.toString(16)}, relaxed translation`;
    this.first = pfnOf(pba);
    this.last = pfnOf(pal);
    this.base = base;
    this.#ram = new IdentitySpace(memory);
    this.apertures = [{ first: this.first, last: this.last }];
  }

  /** Looks at each region of RAM once. */
  enumerate(first: number, last: number, visit: RunVisitor): number {
    const { base } = this;
    const from = Math.max(first, this.first);
    const to = Math.min(last, this.last);
    if (from > to || to < base) return last + 1;
    const reached = this.#ram.enumerate(Math.max(from, base) - base, to - base, (gpa, _, pages) =>
      visit(gpa + base, gpa, pages, READ_WRITE),
    );
    return reached > to - base ? last + 1 : reached + base;
  }

  /** Guest page, or -1 where there is no RAM. */
  pageOf(pfn: number): number {
    const gpa = pfn - this.base;
    return this.#ram.apertures.some(({ first, last }) => gpa >= first && gpa <= last) ? gpa : -1;
  }
}
