import { readFileSync } from 'node:fs';
import { resolve } from 'node:path';
import { defineConfig } from 'vitest/config';

/** What to run in the lab VM: test/kernel/lab.ts says so in a file of the VM's writable folder. */
const job: { readonly files: readonly string[] } = JSON.parse(readFileSync('/mnt/job.json', 'utf8'));

export default defineConfig({
  root: resolve(import.meta.dirname, '../../..'),
  cacheDir: '/tmp/vite',
  test: {
    include: job.files.map((name) => `test/kernel/vm/${name}.vm.ts`),
    pool: 'threads',
    fileParallelism: false,
    isolate: false,
    testTimeout: 60_000,
  },
});
