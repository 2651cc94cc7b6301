import type { PathKind } from './path.ts';
import { shadow } from './shadow.ts';

/** All paths, fastest first. */
export const paths: readonly PathKind[] = [shadow];
