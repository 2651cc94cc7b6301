import type { PfnRange, TableReader } from './target.ts';

/** Tells of pages of a second stage's tables behind a first stage: a store there can change what any page of the space reaches. */
export function anywhere(apertures: readonly PfnRange[], tables: TableReader | null): ((page: number) => void) | null {
  if (tables === null) return null;
  return (page) => {
    for (const { first, last } of apertures) tables(page, 4096, 1, first, last);
  };
}
