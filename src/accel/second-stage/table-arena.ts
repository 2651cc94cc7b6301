import type { NestingParent, TablePages } from '../../host/host.ts';
import { READ_WRITE } from '../../memory/access.ts';
import { hiOfPfn, loOfPfn, pfnOf } from '../../memory/address.ts';
import { GuestMemory } from '../../memory/guest-memory.ts';
import type { TableAllocator } from '../../pagetable/page-table.ts';

/** Pages of the first piece at least, and at most; each further one doubles what there is. A piece is one host call. */
const FIRST_PIECE = 256;
const FIRST_PIECE_LIMIT = 1 << 14;
/** Pages of tables that one guest can cause: those of 128 GiB mapped page by page. */
const LIMIT = 1 << 16;

const ZEROS = new Uint8Array(4096);

/** Memory for tables, which the hardware reaches outside guest RAM: at the top of what the second stage can map. */
export class TableArena {
  /** The arena as the hardware sees it. */
  readonly memory: GuestMemory = new GuestMemory([]);
  /** Guest-physical page behind its last one. */
  readonly end: number;
  readonly #parent: NestingParent;
  readonly #firstPiece: number;
  readonly #pieces: TablePages[] = [];
  readonly #free: number[] = [];
  #pages = 0;

  /** `mapped`: pages that a first stage will map one by one, so that the first piece holds the tables of one that maps all of them. */
  constructor(parent: NestingParent, end: number, mapped: number) {
    this.#parent = parent;
    this.end = end;
    this.#firstPiece = Math.min(Math.max(FIRST_PIECE, powerOf2(tablesOf(mapped))), FIRST_PIECE_LIMIT);
  }

  /** One zeroed page, or -1. */
  allocate(): number {
    if (this.#free.length === 0 && !this.#grow()) return -1;
    const pfn = this.#free.pop()!;
    this.memory.write(hiOfPfn(pfn), loOfPfn(pfn), ZEROS, 0, ZEROS.length);
    return pfn;
  }

  /** The hardware must have forgotten it. */
  free(pfn: number): void {
    this.#free.push(pfn);
  }

  #grow(): boolean {
    const pages = this.#pages === 0 ? this.#firstPiece : this.#pages;
    if (this.#pages + pages > LIMIT) return false;
    const piece = this.#parent.allocate(pages);
    const first = this.end - this.#pages - pages;
    if (this.#parent.space.map(first, pfnOf(piece.address), pages, READ_WRITE) < 0) {
      piece.release();
      return false;
    }
    this.#pieces.push(piece);
    this.#pages += pages;
    this.memory.add({ gpa: BigInt(first) << 12n, buffer: piece.buffer, bytes: pages * 4096 });
    for (let i = pages - 1; i >= 0; i--) this.#free.push(first + i);
    return true;
  }

  /** The second stage must be gone. */
  release(): void {
    for (const piece of this.#pieces) piece.release();
  }
}

/** Tables of so many pages in a row, of 512 entries each, wherever the row begins, with what stands above and beside them. */
function tablesOf(pages: number): number {
  const leaves = Math.ceil(pages / 512) + 1;
  return leaves + Math.ceil(leaves / 512) + 4;
}

function powerOf2(atLeast: number): number {
  return 2 ** Math.ceil(Math.log2(atLeast));
}

/** The pages of one first stage. One that is given back is used again after `reclaim` only: until then the hardware may still read it. */
export class StagePages implements TableAllocator {
  readonly #arena: TableArena;
  readonly #used = new Set<number>();
  readonly #loose: number[] = [];

  constructor(arena: TableArena) {
    this.#arena = arena;
  }

  allocate(pages: number): number {
    const pfn = pages === 1 ? this.#arena.allocate() : -1;
    if (pfn >= 0) this.#used.add(pfn);
    return pfn;
  }

  free(pfn: number): void {
    this.#used.delete(pfn);
    this.#loose.push(pfn);
  }

  /** The hardware has forgotten all that it read before. */
  reclaim(): void {
    for (const pfn of this.#loose) this.#arena.free(pfn);
    this.#loose.length = 0;
  }

  /** The hardware has no such first stage any more. */
  release(): void {
    for (const pfn of this.#used) this.#loose.push(pfn);
    this.#used.clear();
    this.reclaim();
  }
}
