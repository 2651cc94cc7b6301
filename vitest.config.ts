import { defineConfig } from 'vitest/config';

/** What needs nothing but Node runs in `unit`; each of the other projects needs the lab and says so when it is missing. */
const slow = (name: string, seconds: number) => ({
  test: { name, include: [`test/${name}/**/*.test.ts`], testTimeout: seconds * 1000, hookTimeout: seconds * 1000, fileParallelism: false },
});

export default defineConfig({
  test: {
    // By default one core is left free, which on two cores is half of the machine.
    maxWorkers: '100%',
    // test/branches.ts reads it.
    coverage: { provider: 'v8', include: ['src/**'], reporter: ['json'] },
    projects: [
      {
        test: {
          name: 'unit',
          include: ['test/**/*.test.ts'],
          exclude: ['test/peers/**', 'test/kernel/**', 'test/guests/**'],
          setupFiles: ['test/setup.ts'],
          testTimeout: 60_000,
          // Files share a process and what is imported in it: importing everything anew for each of them took more time than the tests do.
          isolate: false,
        },
      },
      slow('peers', 600),
      slow('kernel', 600),
      slow('guests', 300),
    ],
  },
});
