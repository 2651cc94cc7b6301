import { beforeAll, describe, expect, test } from 'vitest';
import { counted } from '../../bench/scale/counting.ts';
import type { count as countPaths } from '../../bench/scale/paths.ts';
import type { Counts, count as countTargets } from './scale-counts.ts';

/**
 * What one operation costs does not grow with what there is: counted in blocks of code that are entered, the simulated kernel's included. Work of one
 * block for every fourth space is seen; what grows with the logarithm is far below.
 */

const TIMEOUT = 300_000;

function expectFlat([few, many]: readonly number[], [fewer, more]: readonly [number, number], what?: string): void {
  expect(few, what).toBeGreaterThan(50);
  expect(many - few, what).toBeLessThan((more - fewer) / 4);
}

describe('each target with 32 and with 256 address spaces', () => {
  const spaces = [32, 256] as const;
  let counts: ReturnType<typeof countTargets>;
  beforeAll(() => {
    counts = counted(new URL('./scale-counts.ts', import.meta.url), ...spaces.map(String)) as typeof counts;
  }, TIMEOUT);

  const operations = [
    'a map and an unmap',
    'a device that goes and comes',
    'an endpoint that is moved to another address space and back',
  ] as const;
  test.each(operations)('%s', (operation) => {
    const able = counts.filter(([few]) => few[operation] !== null);
    expect(able.length).toBeGreaterThanOrEqual(4);
    for (const each of able)
      expectFlat(
        each.map((of: Counts) => of[operation]!),
        spaces,
        each[0].target,
      );
  });
});

describe('each path with 16 and with 64 address spaces', () => {
  const spaces = [16, 64] as const;
  test('a map and an unmap, a store to a watched table, an invalidation', { timeout: TIMEOUT }, () => {
    const module = new URL('../../bench/scale/paths.ts', import.meta.url);
    const sweeps = counted(module, ...spaces.map(String)) as ReturnType<typeof countPaths>;
    expect(sweeps).toHaveLength(14);
    for (const { name, blocks } of sweeps) expectFlat(blocks, spaces, name);
  });
});
