import { execFile } from 'node:child_process';
import { join, resolve } from 'node:path';
import { promisify } from 'node:util';

const run = promisify(execFile);

/** This checkout. */
export const root = resolve(import.meta.dirname, '../../..');

/** Modules of the checkout's own that compiled tests ask for, as they are. */
export const plainModules = ['koffi', 'immer', 'fast-check', 'pure-rand'] as const;

/** What stands where vitest does, for a machine that vitest's binaries are not made for. `app`: where the compiled tests will lie. */
export const vitestPackage = (app: string) => ({
  'package.json': '{"type":"module","main":"index.js"}',
  'index.js': `export * from '${app}/test/kernel/foreign/vitest-shim.js';\n`,
});

/** Compiles what `test/kernel/NAME/tsconfig.json` names to JavaScript. */
export async function compile(name: string, out: string): Promise<void> {
  const tsc = join(root, 'node_modules/typescript/bin/tsc');
  await run(process.execPath, [tsc, '-p', join(root, 'test/kernel', name, 'tsconfig.json'), '--outDir', out], { cwd: root });
}
