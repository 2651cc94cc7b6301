import { followingPaths, type Hardware } from '../hardware.ts';
import type { Work } from '../row.ts';
import { invalidations, type Owners, pairs } from '../rows/paths.ts';
import { WatchedStores } from '../rows/watched.ts';
import { SEARCH, type WorkCounter } from './work.ts';

/** What a guest does on a path, with as many spaces as are asked for, each of a device or of a PASID of one device; the last is worked on. */
export interface PathSweep {
  readonly name: string;
  make(spaces: number): Work;
}

const swept = (what: string, path: string, hardware: Hardware, make: PathSweep['make']): PathSweep => ({
  name: `${what}: ${path}, ${hardware}`,
  make,
});
const nesting: readonly (readonly [string, Hardware])[] = [
  ['nested', 'vtd'],
  ['nested', 'smmuv3'],
  ['nested-queue', 'smmuv3-cmdqv'],
];
const ofPasids = (what: string, path: string, make: (owners: Owners, spaces: number) => Work): PathSweep => ({
  name: `${what}: ${path}, vtd, PASIDs`,
  make: (spaces) => make('PASIDs', spaces),
});

export const pathSweeps: readonly PathSweep[] = [
  ...followingPaths.map(([path, hardware]) => swept('map and unmap', path, hardware, (spaces) => pairs(path, hardware, 1, spaces))),
  ...followingPaths.map(([path, hardware]) =>
    swept('watched store', path, hardware, (spaces) => new WatchedStores(path, hardware, spaces)),
  ),
  ...nesting.map(([path, hardware]) => swept('invalidation', path, hardware, (spaces) => invalidations(path, hardware, 1, spaces))),
  ...['shadow', 'user-owned'].map((path) => ofPasids('map and unmap', path, (owners, spaces) => pairs(path, 'vtd', 1, spaces, owners))),
  ofPasids('invalidation', 'nested', (owners, spaces) => invalidations('nested', 'vtd', 1, spaces, owners)),
];

/** Blocks of one operation on the last of so many spaces, of each sweep, for each number of spaces; the simulated kernel's without its search. */
export function count(
  counter: WorkCounter,
  ...spaces: readonly string[]
): readonly { readonly name: string; readonly blocks: readonly number[] }[] {
  return pathSweeps.map(({ name, make }) => ({ name, blocks: spaces.map((number) => blocksOf(counter, make(Number(number)))) }));
}

function blocksOf(counter: WorkCounter, work: Work): number {
  work.batch();
  return counter.of(() => work.batch(), SEARCH) / work.operations;
}
