import { mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { compile, plainModules, root, vitestPackage } from '../foreign/compile.ts';
import type { CaseResult } from '../foreign/vitest-shim.ts';
import { runLabVm } from '../lab.ts';

/*
 * The arm64 VM, whose emulated SMMUv3 translates in two stages. It has a node of its own; this checkout is compiled to JavaScript for it, in the
 * VM's one writable folder.
 */

/** How QEMU's SMMUv3 translates for the VM. */
export type Smmu = 'nested' | 's1' | 's2';

/** Where the VM sees this machine's files, and the folder. */
const HOST = '/host';
const APP = '/mnt/app';

/** `parts`: what guest.ts runs. */
export interface ArmResults {
  readonly cases: readonly CaseResult[];
  /** One line an operation. */
  readonly operations: readonly string[];
}

async function prepare(app: string): Promise<void> {
  await compile('arm64', app);
  writeFileSync(join(app, 'package.json'), '{"type":"module"}');
  const modules = join(app, 'node_modules');
  mkdirSync(join(modules, 'vitest'), { recursive: true });
  for (const name of plainModules) symlinkSync(`${HOST}${join(root, 'node_modules', name)}`, join(modules, name));
  for (const [name, text] of Object.entries(vitestPackage(APP))) writeFileSync(join(modules, 'vitest', name), text);
}

/** Runs parts of guest.ts in the VM. @throws Error with what the VM said when it did not come to the end. */
export async function runInArm64(smmu: Smmu, parts: readonly string[], seconds = 400): Promise<ArmResults> {
  const out = mkdtempSync(join(tmpdir(), 'viommu-arm64-'));
  try {
    await prepare(join(out, 'app'));
    writeFileSync(join(out, 'run.sh'), `cd ${APP} && exec node test/kernel/arm64/guest.js ${smmu} ${parts.join(' ')} >/mnt/out 2>&1\n`);
    const said = await runLabVm('vm-aarch64', ['-v', smmu, '-T', `${seconds}`, '/mnt/run.sh'], out);
    const output = readFileSync(join(out, 'out'), 'utf8');
    if (!output.endsWith('DONE\n')) throw new Error(`the arm64 VM did not come to the end:\n${output.slice(-3000)}\n${said.slice(-3000)}`);
    const lines = (prefix: string) => output.split('\n').flatMap((line) => (line.startsWith(prefix) ? [line.slice(prefix.length)] : []));
    return { cases: lines('CASE ').map((json) => JSON.parse(json)), operations: lines('OPERATION ') };
  } finally {
    rmSync(out, { recursive: true, force: true });
  }
}
