import { defineConfig } from 'vitest/config';

/** As Stryker runs the tests for each mutant: those that mutate.ts names, and what is drawn is the same every time. */
export default defineConfig({
  test: {
    include: (process.env['VIOMMU_MUTATION_TESTS'] ?? 'test/**/*.test.ts').split(','),
    exclude: ['test/peers/**', 'test/kernel/**', 'test/guests/**'],
    setupFiles: ['test/setup.ts'],
    env: { VIOMMU_SEED: '7' },
    testTimeout: 60_000,
  },
});
