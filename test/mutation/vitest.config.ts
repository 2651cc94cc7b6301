import { relative } from 'node:path';
import { defineConfig } from 'vitest/config';
import { BaseSequencer, type TestSpecification } from 'vitest/node';

/** How long each file took when it ran whole, before the first mutant: the first time that is known of it. */
const durations = new Map<string, number>();

/** Short files first: most mistakes are noticed there, and the run of a mutant ends with the first test that fails. */
class ShortestFirst extends BaseSequencer {
  override async sort(files: TestSpecification[]): Promise<TestSpecification[]> {
    for (const { moduleId, project } of files) {
      const known = this.ctx.cache.getFileTestResults(`${project.name}:${relative(this.ctx.config.root, moduleId)}`);
      if (known !== undefined && !durations.has(moduleId)) durations.set(moduleId, known.duration);
    }
    return [...files].sort((a, b) => (durations.get(a.moduleId) ?? 0) - (durations.get(b.moduleId) ?? 0));
  }
}

/** As Stryker runs the tests for each mutant: those that mutate.ts names, and what is drawn is the same every time. */
export default defineConfig({
  test: {
    include: (process.env['VIOMMU_MUTATION_TESTS'] ?? 'test/**/*.test.ts').split(','),
    exclude: ['test/peers/**', 'test/kernel/**', 'test/guests/**'],
    setupFiles: ['test/setup.ts'],
    env: { VIOMMU_SEED: '7' },
    testTimeout: 60_000,
    // As in the suite: importing everything anew for each file and mutant takes longer than the tests.
    isolate: false,
    sequence: { sequencer: ShortestFirst },
  },
});
