import { describe, expect, test } from 'vitest';
import { scalePage } from '../../bench/scale/page.ts';
import { overSize, overSpaces } from '../../bench/scale/sweeps.ts';

describe('npm run bench -- scale', () => {
  test('an operation is one host call, however many spaces there are', () => {
    for (const spaces of [1, 16]) {
      const point = overSpaces('spapr', spaces, 10);
      expect(point).toMatchObject({ sweep: 'spaces', x: spaces, hostCalls: 1 });
      expect(point.blocks).toBeGreaterThan(10);
    }
  });

  test('scattered pages are a host call each, one run of pages is one', () => {
    expect(overSize('mappings', 10_000 * 4096, 12, true)).toMatchObject({ variant: 'scattered', x: 10_000, hostCalls: 1 });
    expect(overSize('guest size', 2 ** 24, 12, false)).toMatchObject({ variant: '4 KiB pages', x: 2 ** 24, hostCalls: 1 / 2 ** 12 });
    expect(overSize('guest size', 2 ** 24, 21, false).variant).toBe('2 MiB pages');
  });

  test('the page has every point and needs nothing else', () => {
    const point = overSize('mappings', 1000 * 4096, 12, true);
    const page = scalePage([point]);
    expect(page).toContain(JSON.stringify([point]));
    expect(page).not.toMatch(/src=|href=/);
  });
});
