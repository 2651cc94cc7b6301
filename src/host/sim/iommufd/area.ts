import { READ, WRITE } from '../../../memory/access.ts';
import type { Frames } from '../memory.ts';
import type { PagingDomain } from '../paging-domain.ts';
import type { Span } from '../spans.ts';
import type { Pages } from './pages.ts';

/** Whoever reaches an IOAS's memory without DMA: what it may ask of the areas. */
export interface AccessUser {
  /** It pins pages; what it names is aligned to them then. */
  readonly pins: boolean;
  /** Something of [first, last] goes: it lets go of what it has pinned there. Absent: what it pins cannot be unmapped. */
  unmap?(first: bigint, last: bigint): void;
}

/** A mapping of an IOAS (struct iopt_area). */
export interface Area extends Span<bigint> {
  readonly pages: Pages;
  /** First byte, counted from the start of `pages`. */
  readonly offset: bigint;
  readonly permission: number;
  /** The frames that it pins while it is in a domain. */
  frames: Frames | null;
  physical: number;
  /** Pins by accesses, and those of them whose user cannot be told to let go: with one, it cannot be unmapped (EBUSY). */
  accesses: number;
  locks: number;
  /** It is about to go: nobody may pin it any more. */
  leaving: boolean;
}

/** Maps an area in a domain. `small`: with entries of a page only. */
export function fill(domain: PagingDomain, area: Area, small: boolean): void {
  const granule = BigInt(domain.granule);
  domain.map({
    first: Number(area.first / granule),
    last: Number(area.last / granule),
    physical: area.physical / domain.granule,
    permission: area.permission & (READ | WRITE),
    small,
  });
}

export function empty(domain: PagingDomain, area: Area): void {
  const granule = BigInt(domain.granule);
  domain.unmap(Number(area.first / granule), Number(area.last / granule));
}
