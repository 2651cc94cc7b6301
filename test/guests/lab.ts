import { execFileSync } from 'node:child_process';
import { chmodSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { QEMU_FOLDER } from '../../src/cli/boot/tools.ts';

/**
 * Makes the lab's QEMU the one that `viommu boot` finds: a folder of programs, one a processor. Returns what takes it away again.
 * @throws Error when it cannot be set up.
 */
export function useLabQemu(): () => void {
  if (process.env[QEMU_FOLDER] !== undefined) return () => {};
  const lab = resolve(import.meta.dirname, '../lab');
  execFileSync(join(lab, 'setup-qemu'), { stdio: ['ignore', 'ignore', 'inherit'] });
  const folder = mkdtempSync(join(tmpdir(), 'viommu-qemu-'));
  for (const arch of ['x86_64', 'aarch64', 'riscv64']) {
    const program = join(folder, `qemu-system-${arch}`);
    writeFileSync(program, `#!/bin/bash\nexec ${join(lab, 'qemu')} ${arch} "$@"\n`);
    chmodSync(program, 0o755);
  }
  process.env[QEMU_FOLDER] = folder;
  return () => {
    delete process.env[QEMU_FOLDER];
    rmSync(folder, { recursive: true, force: true });
  };
}
