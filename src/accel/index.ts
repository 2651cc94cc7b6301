export { Binder } from './binder.ts';
export { type Choice, choose, type PathWish, pathNames } from './choose.ts';
export type { Path, PathContext, PathCounters, PathKind } from './path.ts';
export { paths } from './registry.ts';
