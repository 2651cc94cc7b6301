export { Binder, type BinderOptions } from './binder.ts';
export { type Candidate, type Choice, candidates, choose, type Hearing, type PathWish, pathNames } from './choose.ts';
export { type SpaceTraits, type Way, waysBetween } from './matrix.ts';
export type { GuestHardware, PasidPlace, Path, PathContext, PathCounters, PathKind, Requester, StagedTarget } from './path.ts';
export { paths } from './registry.ts';
export { StoreWatch } from './store-watch.ts';
export type { TableWatch } from './table-watch.ts';
