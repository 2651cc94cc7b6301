import { fc } from '@fast-check/vitest';

/** What a driver does with one of its tables: an edit, and the invalidations that it sends afterwards. */
export interface TableEdit<Flush extends string> {
  readonly do: 'map' | 'unmap';
  readonly table: number;
  readonly pfn: number;
  readonly to: number;
  readonly pages: number;
  readonly permission: number;
  readonly flush: Flush;
}

interface Edits<Flush extends string> {
  readonly tables: number;
  readonly pfn: fc.Arbitrary<number>;
  readonly to: fc.Arbitrary<number>;
  /** At most. */
  readonly pages: number;
  readonly permissions: readonly number[];
  readonly flushes: readonly Flush[];
}

/** Edits of tables 0 to `tables` - 1, two of three of which map. */
export function tableEdits<Flush extends string>(edits: Edits<Flush>): fc.Arbitrary<TableEdit<Flush>> {
  return fc.record({
    do: fc.constantFrom('map', 'map', 'unmap'),
    table: fc.nat(edits.tables - 1),
    pfn: edits.pfn,
    to: edits.to,
    pages: fc.integer({ min: 1, max: edits.pages }),
    permission: fc.constantFrom(...edits.permissions),
    flush: fc.constantFrom(...edits.flushes),
  });
}

/** lg2 of the smallest block of naturally aligned pages that holds all of a range: what an invalidation of one block has to name. */
export function coveringLg2(pfn: number, pages: number): number {
  let lg2 = 0;
  while (Math.floor(pfn / 2 ** lg2) !== Math.floor((pfn + pages - 1) / 2 ** lg2)) lg2++;
  return lg2;
}
