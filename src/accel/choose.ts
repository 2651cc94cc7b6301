import type { PathContext, PathKind } from './path.ts';
import { paths } from './registry.ts';

/** Why a path serves, and why the others, faster ones first, do not. */
export interface Choice {
  /** The path's name, or `emulated` when the endpoint has no host device and its DMA is translated in software. */
  readonly path: string;
  readonly refused: readonly { readonly path: string; readonly reason: string }[];
}

/** `auto`, or the name of a path. */
export type PathWish = string;

/** Names that a wish can have. */
export function pathNames(): readonly string[] {
  return ['auto', ...paths.map((kind) => kind.name)];
}

/** @throws RangeError for a wish that names no path. */
export function checkWish(wish: PathWish): void {
  if (!pathNames().includes(wish)) throw new RangeError(`path: no path is called '${String(wish)}'; there are ${pathNames().join(', ')}`);
}

/**
 * The fastest path that both sides can do; with a wish, that path or none.
 * @throws RangeError for a wish that names no path.
 */
export function choose(context: PathContext, wish: PathWish = 'auto'): { readonly kind: PathKind | null; readonly choice: Choice } {
  checkWish(wish);
  const refused: { path: string; reason: string }[] = [];
  for (const kind of paths) {
    const reason = wish === 'auto' || wish === kind.name ? kind.refuse(context) : `'${wish}' was asked for`;
    if (reason === null) return { kind, choice: { path: kind.name, refused } };
    refused.push({ path: kind.name, reason });
  }
  return { kind: null, choice: { path: context.host === null ? 'emulated' : 'none', refused } };
}
