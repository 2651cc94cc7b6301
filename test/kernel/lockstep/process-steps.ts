import type { Builder, Kind } from './builder.ts';

/** Processes, and how much memory each may lock. */

/** Of RLIMIT_MEMLOCK: nothing, some pages, all that a program maps. */
const LIMITS = [0, 0x2000, 0x5000, 0x8000, 0x1_0000, 0x10_0000];

export function limit(builder: Builder): void {
  builder.play({ operation: 'limit', name: 'RLIMIT_MEMLOCK', request: builder.random.pick(LIMITS) });
}

/** A child that has all that is open, and a copy of memory; or its end. */
function forkOrExit(builder: Builder): void {
  if (builder.byChild) builder.play({ operation: 'exit', name: 'exit' });
  else if (!builder.process.hasChild) builder.play({ operation: 'fork', name: 'fork' });
}

export const processSteps: readonly Kind[] = [
  [1, limit],
  [2, forkOrExit],
];
