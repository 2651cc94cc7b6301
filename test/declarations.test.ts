import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, test } from 'vitest';

const root = join(import.meta.dirname, '..');
const folder = mkdtempSync(join(tmpdir(), 'viommu-declarations-'));
afterAll(() => rmSync(folder, { recursive: true }));

const OURS = join(root, 'node_modules/.bin/tsc');
/** Of who uses the package: ours, and another version's that `npm run check:types` hands in. */
const COMPILERS = [OURS, process.env['VIOMMU_TSC']].filter((compiler) => compiler !== undefined);

function run(compiler: string, ...args: readonly string[]): string {
  const { stdout, stderr } = spawnSync(compiler, ['--pretty', 'false', ...args], { encoding: 'utf8' });
  return stdout + stderr;
}

test('what the package exports compiles for who has neither @types/node nor a DOM, resolved as Node does and as bundlers do', {
  timeout: 300_000,
}, () => {
  expect(run(OURS, '-p', join(root, 'tsconfig.build.json'), '--emitDeclarationOnly', '--outDir', join(folder, 'dist'))).toBe('');
  const { exports } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as { exports: Record<string, { types: string }> };
  writeFileSync(join(folder, 'package.json'), '{"type":"module"}');
  symlinkSync(join(root, 'node_modules'), join(folder, 'node_modules'));
  for (const [module, moduleResolution] of [
    ['NodeNext', 'NodeNext'],
    ['ESNext', 'Bundler'],
  ]) {
    const compilerOptions = {
      target: 'ES2023',
      lib: ['ES2023'],
      module,
      moduleResolution,
      strict: true,
      skipLibCheck: false,
      types: [],
      noEmit: true,
    };
    writeFileSync(
      join(folder, 'tsconfig.json'),
      JSON.stringify({ compilerOptions, include: Object.values(exports).map(({ types }) => types) }),
    );
    for (const compiler of COMPILERS) expect(run(compiler, '-p', folder), compiler).toBe('');
  }
  // Every entry was looked at, those behind a pattern too.
  const files = run(OURS, '-p', folder, '--listFilesOnly');
  for (const entry of ['dist/index.d.ts', 'dist/accel/shadow.d.ts', 'dist/host/sim/index.d.ts', 'dist/target/riscv/index.d.ts'])
    expect(files).toContain(entry);
});
