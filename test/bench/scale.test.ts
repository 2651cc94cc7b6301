import { execFileSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { beforeAll, describe, expect, test } from 'vitest';
import { scalePage } from '../../bench/scale/page.ts';
import type { Point } from '../../bench/scale/sweeps.ts';

describe('npm run bench -- scale', () => {
  let points: readonly Point[];
  beforeAll(() => {
    const script = fileURLToPath(new URL('./scale-points.ts', import.meta.url));
    points = JSON.parse(execFileSync(process.execPath, ['--import', 'tsx', script], { encoding: 'utf8' }));
  }, 300_000);

  test('an operation is one host call, however many spaces there are', () => {
    for (const [i, spaces] of [1, 16].entries()) {
      expect(points[i]).toMatchObject({ sweep: 'spaces', x: spaces, hostCalls: 1 });
      expect(points[i]!.blocks).toBeGreaterThan(10);
    }
  });

  test('scattered pages are a host call each, one run of pages is one', () => {
    const [scattered, small, large] = points.slice(2);
    expect(scattered).toMatchObject({ variant: 'scattered', x: 10_000, hostCalls: 1 });
    expect(small).toMatchObject({ variant: '4 KiB pages', x: 2 ** 24, hostCalls: 1 / 2 ** 12 });
    expect(large).toMatchObject({ variant: '2 MiB pages' });
  });

  test('the page has every point and needs nothing else', () => {
    const page = scalePage(points);
    expect(page).toContain(JSON.stringify(points));
    expect(page).not.toMatch(/src=|href=/);
  });
});
