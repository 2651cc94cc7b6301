import { requireObject } from '../memory/arguments.ts';
import type { PathContext, PathKind } from './path.ts';
import { paths } from './registry.ts';

/** Why a path serves, and why the others, faster ones first, do not. */
export interface Choice {
  /**
   * The path's name, with `, watched` where its space's guest does not announce mappings and its tables are watched instead, or `, on demand` where
   * its devices ask for pages; or `emulated` when the endpoint has no host device and its DMA is translated in software.
   */
  readonly path: string;
  readonly refused: readonly { readonly path: string; readonly reason: string }[];
}

/** `auto`, or the name of a path: then in any of its ways to hear of new mappings. */
export type PathWish = string;

/** How a path that asks what a space means hears of mappings that become valid: from the guest, its stores, or the devices that want them. */
export type Hearing = 'announced' | 'watched' | 'on demand';

interface HearingKind {
  readonly hearing: Hearing;
  readonly suffix: string;
  refuse(context: PathContext): string | null;
}

const ANNOUNCED: HearingKind = {
  hearing: 'announced',
  suffix: '',
  refuse: ({ space }) => (space.announced ? null : `${space.name}: its guest does not announce new mappings`),
};

const WATCHED: HearingKind = {
  hearing: 'watched',
  suffix: ', watched',
  refuse({ space, isWatched }) {
    if (space.tellsTables !== true) return `${space.name}: cannot say which tables it is read from`;
    return isWatched === true ? null : 'nobody watches the guest for stores to its tables (no TableWatch)';
  },
};

const ON_DEMAND: HearingKind = {
  hearing: 'on demand',
  suffix: ', on demand',
  refuse({ host, device }) {
    if (host?.pageRequests === undefined || device === undefined)
      return `${host?.kind ?? 'no host'} does not report faults that a device waits for`;
    return host.pageRequests.refuses(device);
  },
};

/** One way to serve, and what is missing for it; null: nothing. */
export interface Candidate {
  readonly path: string;
  readonly kind: PathKind;
  readonly hearing: Hearing;
  readonly reason: string | null;
}

/** Names that a wish can have. */
export function pathNames(): readonly string[] {
  return ['auto', ...paths.map((kind) => kind.name)];
}

/** @throws RangeError for a wish that names no path. */
export function checkWish(wish: PathWish): void {
  if (!pathNames().includes(wish)) throw new RangeError(`path: no path is called '${String(wish)}'; there are ${pathNames().join(', ')}`);
}

/**
 * All ways from this space to this host, fastest first, each with what is missing: each path plain, and, where its guest announces nothing,
 * watched and on demand.
 */
export function candidates(context: PathContext): readonly Candidate[] {
  requireObject('choose', 'context', context);
  if (context.host !== null) requireObject('choose', 'context.host', context.host, 'Host', ['createSpace']);
  requireObject('choose', 'context.space', context.space, 'AddressSpace', ['enumerate']);
  return paths.flatMap((kind) => {
    const reason = kind.refuse(context);
    if (reason !== null || kind.readsGuestTables) return [{ path: kind.name, kind, hearing: 'announced', reason }];
    const hearings = context.space.announced ? [ANNOUNCED] : [ANNOUNCED, WATCHED, ON_DEMAND];
    return hearings.map(({ suffix, hearing, refuse }) => ({ path: kind.name + suffix, kind, hearing, reason: refuse(context) }));
  });
}

/**
 * The fastest path that both sides can do; with a wish, that path or none.
 * @throws RangeError for a wish that names no path.
 */
export function choose(context: PathContext, wish: PathWish = 'auto'): { readonly served: Candidate | null; readonly choice: Choice } {
  checkWish(wish);
  const refused: { path: string; reason: string }[] = [];
  for (const candidate of candidates(context)) {
    const { path, kind } = candidate;
    const reason = wish === 'auto' || wish === kind.name ? candidate.reason : `'${wish}' was asked for`;
    if (reason === null) return { served: candidate, choice: { path, refused } };
    refused.push({ path, reason });
  }
  return { served: null, choice: { path: context.host === null ? 'emulated' : 'none', refused } };
}
