import type { AddressSpace, PasidDirectory } from '../target/target.ts';
import { WatchedSpace, type WatchedTables } from './watched-tables.ts';

/** PASIDs have 20 bits (PCIe 6.20.2.2). */
const PASIDS = 1 << 20;

/**
 * Directories of PASIDs whose guests announce no new one: a store to their tables is followed before it completes, as one to a space's. What becomes valid
 * where nobody watches waits for a command of its guest.
 */
export class WatchedDirectories {
  readonly #tables: WatchedTables | null;
  readonly #tell: (endpoint: number) => void;
  readonly #directories = new Map<number, PasidDirectory>();
  readonly #watched = new Map<number, WatchedSpace>();

  /** `tables`: null where nobody tells of stores. `tell` hears of endpoints of which `blindnessOf` may say something else now. */
  constructor(tables: WatchedTables | null, tell: (endpoint: number) => void) {
    this.#tables = tables;
    this.#tell = tell;
  }

  /** From now on this is the endpoint's; null: none is. */
  set(endpoint: number, directory: PasidDirectory | null): void {
    const before = this.blindnessOf(endpoint);
    const watched = this.#watched.get(endpoint);
    if (watched !== undefined) this.#tables?.drop(watched);
    this.#watched.delete(endpoint);
    this.#directories.delete(endpoint);
    if (directory !== null) this.#follow(endpoint, directory);
    if (this.blindnessOf(endpoint) !== before) this.#tell(endpoint);
  }

  /** Why something of the endpoint's can become valid that is not seen before the guest's next command; null: it cannot. */
  blindnessOf(endpoint: number): string | null {
    const directory = this.#directories.get(endpoint);
    if (directory === undefined) return null;
    const watched = this.#watched.get(endpoint);
    if (watched !== undefined && !watched.isBlind) return null;
    const who = watched === undefined ? 'nobody watches it for stores (no TableWatch)' : 'not all of it can be watched';
    return `${directory.name}: ${who}, so what becomes valid in it without a command is not seen`;
  }

  #follow(endpoint: number, directory: PasidDirectory): void {
    this.#directories.set(endpoint, directory);
    const tables = this.#tables;
    if (tables === null) return;
    const watched = new WatchedSpace(spaceOf(directory), tables);
    let [first, last] = [PASIDS, -1];
    watched.path = {
      changed: (from, to) => {
        [first, last] = [Math.min(first, from), Math.max(last, to)];
      },
      settle: () => {
        const [from, to] = [first, last];
        [first, last] = [PASIDS, -1];
        const wasBlind = watched.isBlind;
        // Tables that are new are watched before they are read.
        read(watched, tables);
        directory.stored(from, to);
        if (wasBlind !== watched.isBlind) this.#tell(endpoint);
        return true;
      },
    };
    this.#watched.set(endpoint, watched);
    read(watched, tables);
  }
}

/** Where there is no room, pages that are tables no more are left first. */
function read(watched: WatchedSpace, tables: WatchedTables): void {
  const all = () => watched.enumerate(0, PASIDS - 1, () => true);
  all();
  if (!watched.isBlind) return;
  tables.drop(watched);
  all();
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
