import { nested, nestedQueue } from './nested/nested.ts';
import type { PathKind } from './path.ts';
import { shadow } from './shadow.ts';
import { userOwned, userOwnedQueue } from './user-owned/user-owned.ts';

/** All paths, fastest first. */
export const paths: readonly PathKind[] = [nestedQueue, nested, userOwnedQueue, userOwned, shadow];
