import type { AddressSpace, PasidDirectory } from '../target/target.ts';
import { WatchedSpace, type WatchedTables } from './watched-tables.ts';

/** PASIDs have 20 bits (PCIe 6.20.2.2). */
const PASIDS = 1 << 20;

/** Directories of PASIDs whose guests announce no new one: a store to their tables is followed before it completes, as one to a space's. */
export class WatchedDirectories {
  readonly #tables: WatchedTables;
  readonly #watched = new Map<number, WatchedSpace>();

  constructor(tables: WatchedTables) {
    this.#tables = tables;
  }

  /** From now on this is the endpoint's; null: none is. */
  set(endpoint: number, directory: PasidDirectory | null): void {
    const before = this.#watched.get(endpoint);
    if (before !== undefined) this.#tables.drop(before);
    this.#watched.delete(endpoint);
    if (directory === null) return;
    const watched = new WatchedSpace(spaceOf(directory), this.#tables);
    let [first, last] = [PASIDS, -1];
    watched.path = {
      changed: (from, to) => {
        [first, last] = [Math.min(first, from), Math.max(last, to)];
      },
      settle: () => {
        const [from, to] = [first, last];
        [first, last] = [PASIDS, -1];
        // Tables that are new are watched before they are read.
        watched.enumerate(0, PASIDS - 1, () => true);
        directory.stored(from, to);
        return true;
      },
    };
    this.#watched.set(endpoint, watched);
    watched.enumerate(0, PASIDS - 1, () => true);
  }
}

/** A directory as what watched tables look at: PASIDs for pages, and none of them mapped. */
function spaceOf(directory: PasidDirectory): AddressSpace {
  return {
    name: directory.name,
    owner: 'guest',
    announced: false,
    tellsTables: true,
    granuleLg2: 12,
    apertures: [{ first: 0, last: PASIDS - 1 }],
    enumerate: (_first, last, _visit, tables) => {
      if (tables !== undefined) directory.read(tables);
      return last + 1;
    },
  };
}
