import type { Host, HostDevice, PageRequestQueue } from '../host/host.ts';
import type { GuestMemory } from '../memory/guest-memory.ts';
import type { AddressSpace, PasidDirectory } from '../target/target.ts';
import type { Choice, Hearing } from './choose.ts';
import { DemandSpace } from './on-demand/demand-space.ts';
import { type DemandPlace, PageService } from './on-demand/page-service.ts';
import type { StagedTarget } from './path.ts';
import type { TableWatch } from './table-watch.ts';
import { WatchedDirectories } from './watched-directories.ts';
import { WatchedSpace, WatchedTables } from './watched-tables.ts';

/** What a path asks in the place of a space whose guest announces nothing; both null: the space itself. */
export interface AskedSpace {
  readonly watched: WatchedSpace | null;
  readonly demand: DemandSpace | null;
  /** Where devices ask for pages, with `demand`. */
  readonly pageRequests?: PageRequestQueue;
}

export interface AskedParts {
  readonly host: Host;
  readonly memory: GuestMemory;
  readonly target: StagedTarget | undefined;
  /** undefined: nobody tells of stores. */
  readonly watch: TableWatch | undefined;
  /** Blocks of a space filled on demand that hardware has at one time at most. */
  readonly residentBlocks: number;
}

/** How paths hear of mappings that nobody announces, and what is kept for all spaces of a guest for that. */
export class AskedSpaces {
  readonly #parts: AskedParts;
  readonly #demandOf: (device: HostDevice) => DemandPlace | null;
  readonly #tables: WatchedTables | null;
  readonly #directories: WatchedDirectories;
  /** Made for the first space that is filled on demand. */
  #pages: PageService | null = null;

  /** `demandOf`: the space, filled on demand, that a device is at. `tell` hears of endpoints of which `blindnessOf` may say something else now. */
  constructor(parts: AskedParts, demandOf: (device: HostDevice) => DemandPlace | null, tell: (endpoint: number) => void) {
    this.#parts = parts;
    this.#demandOf = demandOf;
    this.#tables = parts.watch === undefined ? null : new WatchedTables(parts.watch);
    this.#directories = new WatchedDirectories(this.#tables, tell);
  }

  get pages(): PageService | null {
    return this.#pages;
  }

  /** @throws HostError */
  of(space: AddressSpace, hearing: Hearing): AskedSpace {
    if (hearing === 'watched') return { watched: new WatchedSpace(space, this.#tables!), demand: null };
    if (hearing !== 'on demand') return { watched: null, demand: null };
    const { memory, residentBlocks } = this.#parts;
    return { watched: null, demand: new DemandSpace(space, memory, residentBlocks), pageRequests: this.#pageService().queue };
  }

  /** Which PASIDs an endpoint has is said by these tables from now on, and watched where somebody tells of stores. */
  setDirectory(endpoint: number, directory: PasidDirectory | null): void {
    this.#directories.set(endpoint, directory);
  }

  /** An endpoint's choice, with what of its directories nobody sees (WatchedDirectories.blindnessOf). */
  withBlindness(endpoint: number, choice: Choice | null): Choice | null {
    const reason = this.#directories.blindnessOf(endpoint);
    if (reason === null) return choice;
    const { path, refused } = choice ?? { path: 'blocked', refused: [] };
    return { path, refused: [...refused, { path, reason }] };
  }

  /** Stops watching for a space. */
  drop(watched: WatchedSpace): void {
    this.#tables?.drop(watched);
  }

  close(): void {
    this.#tables?.close();
    this.#pages?.close();
  }

  /** @throws HostError */
  #pageService(): PageService {
    const { host, target = {} } = this.#parts;
    this.#pages ??= new PageService(host.pageRequests!.createQueue(), target, this.#demandOf);
    return this.#pages;
  }
}
