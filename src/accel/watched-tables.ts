import { errno, HostError } from '../host/errno.ts';
import type { AddressSpace, RunVisitor } from '../target/target.ts';
import { FollowedSpace } from './followed-space.ts';
import type { TableWatch } from './table-watch.ts';

/** Guest pages with tables that are watched at most: the tables of 128 GiB mapped page by page. */
const PAGE_LIMIT = 1 << 16;

/** What a store to a piece of a watched page can change. */
interface Piece {
  readonly space: WatchedSpace;
  readonly offset: number;
  readonly bytes: number;
  readonly entries: number;
  readonly first: number;
  readonly last: number;
  /** An enumeration has read it since the last store to it. */
  isRead: boolean;
}

/** An address space whose guest announces nothing, and need not: what its tables are read from is watched. */
export class WatchedSpace extends FollowedSpace {
  readonly pages = new Set<number>();
  /** Some table could not be watched: what the hardware has may fall short of what the guest means. */
  isBlind = false;
  readonly #tables: WatchedTables;

  constructor(space: AddressSpace, tables: WatchedTables) {
    super(space);
    this.#tables = tables;
  }

  enumerate(first: number, last: number, visit: RunVisitor): number {
    return this.space.enumerate(first, last, visit, this.#read);
  }

  get blindness(): HostError {
    return new HostError(this.name, errno.ENOSPC, undefined, 'not all of its tables can be watched');
  }

  readonly #read = (address: number, bytes: number, entries: number, first: number, last: number): void => {
    const pfn = Math.floor(address / 4096);
    const piece = { space: this, offset: address % 4096, bytes, entries, first, last, isRead: true };
    if (!this.#tables.add(pfn, piece)) this.isBlind = true;
  };
}

/**
 * The guest pages that hold tables of watched spaces, as far as enumerations have read them. A page that is a table no more is found out by the
 * next store to it, and not watched from then on.
 */
export class WatchedTables {
  readonly #watch: TableWatch;
  readonly #pieces = new Map<number, Piece[]>();
  readonly #unobserve: () => void;

  constructor(watch: TableWatch) {
    this.#watch = watch;
    this.#unobserve = watch.observe((pfn, offset, bytes) => this.#stored(pfn, offset, bytes));
  }

  /** Pages that are watched. */
  get size(): number {
    return this.#pieces.size;
  }

  /** From now on a store to the piece is seen. False: it is not. */
  add(pfn: number, piece: Piece): boolean {
    const pieces = this.#pieces.get(pfn);
    if (pieces === undefined) {
      if (this.#pieces.size >= PAGE_LIMIT || !this.#watch.watch(pfn)) return false;
      this.#pieces.set(pfn, [piece]);
    } else {
      const known = pieces.find((other) => other.space === piece.space && other.first === piece.first && other.offset === piece.offset);
      if (known?.last === piece.last) {
        known.isRead = true;
        return true;
      }
      pieces.push(piece);
    }
    piece.space.pages.add(pfn);
    return true;
  }

  /** Stops watching for a space. */
  drop(space: WatchedSpace): void {
    for (const pfn of space.pages) this.#keep(pfn, (piece) => piece.space !== space);
    space.pages.clear();
    space.isBlind = false;
  }

  close(): void {
    this.#unobserve();
    for (const pfn of this.#pieces.keys()) this.#watch.unwatch(pfn);
    this.#pieces.clear();
  }

  #stored(pfn: number, offset: number, bytes: number): void {
    const hit = (this.#pieces.get(pfn) ?? []).filter((piece) => offset < piece.offset + piece.bytes && offset + bytes > piece.offset);
    for (const piece of hit) {
      const entryBytes = piece.bytes / piece.entries;
      const pages = (piece.last - piece.first + 1) / piece.entries;
      const from = Math.max(0, Math.floor((offset - piece.offset) / entryBytes));
      const end = Math.min(piece.entries, Math.ceil((offset + bytes - piece.offset) / entryBytes));
      piece.isRead = false;
      piece.space.path?.changed(piece.first + from * pages, piece.first + end * pages - 1);
    }
    for (const space of new Set(hit.map((piece) => piece.space))) {
      if (space.path?.settle() !== true) continue;
      // What was looked at anew and not read there lies in tables that the guest has given up.
      this.#keep(pfn, (piece) => piece.space !== space || piece.isRead || !hit.includes(piece));
      if (!this.#pieces.get(pfn)?.some((piece) => piece.space === space)) space.pages.delete(pfn);
    }
  }

  #keep(pfn: number, stays: (piece: Piece) => boolean): void {
    const pieces = this.#pieces.get(pfn)?.filter(stays);
    if (pieces === undefined) return;
    if (pieces.length > 0) this.#pieces.set(pfn, pieces);
    else {
      this.#pieces.delete(pfn);
      this.#watch.unwatch(pfn);
    }
  }
}
