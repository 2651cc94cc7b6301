import type { PathKind } from './path.ts';
import { shadow } from './shadow.ts';
import { userOwned } from './user-owned/user-owned.ts';

/** All paths, fastest first. */
export const paths: readonly PathKind[] = [userOwned, shadow];
