import { execFile } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { KERNEL_ARGUMENTS, lab, runLabVm } from '../lab.ts';
import { QEMU_ARGUMENTS, SETUP } from './machine.ts';
import { type Area, decodeResults, encodePrograms, type Played, type Program } from './program.ts';

const run = promisify(execFile);

const SCRIPT = [...SETUP, 'cp /mnt/player /mnt/programs /tmp', '/tmp/player /tmp/programs /tmp/results $paths && cp /tmp/results /mnt'];
/** Where a program makes the kernel warn of itself, what follows in it is no judge. */
const WARNED = "dmesg | grep -A30 'cut here' >/mnt/warned; true";

/** Programs that are made and compared: 1,000, or as many as VIOMMU_PROGRAMS says. */
export const programCount = Number(process.env['VIOMMU_PROGRAMS'] ?? 1000);

/** The first program's seed: VIOMMU_SEED fixes it, as for the property tests; elsewhere every run draws anew. */
export const firstSeed = (Number(process.env['VIOMMU_SEED'] ?? Date.now() % 1_000_000) * 1_000_003) % 2 ** 31;

/** Plays programs on the real kernel, in the VM. @throws Error with what the VM said when it did not come to the end. */
export async function playInVm(areas: readonly Area[], programs: readonly Program[]): Promise<Played[]> {
  const out = mkdtempSync(join(tmpdir(), 'viommu-lockstep-'));
  try {
    await run('cc', ['-O1', '-static', '-o', join(out, 'player'), join(lab, 'player.c')]);
    writeFileSync(join(out, 'programs'), encodePrograms(areas, programs));
    writeFileSync(join(out, 'run.sh'), [...SCRIPT, WARNED].join('\n'));
    const said = await runLabVm('vm-x86_64', ['-v', 'vtd', '-T', '900', '-a', KERNEL_ARGUMENTS, '-x', QEMU_ARGUMENTS, '/mnt/run.sh'], out);
    const results = join(out, 'results');
    if (!existsSync(results)) throw new Error(`the VM gave no results:\n${said.slice(-3000)}`);
    const warned = readFileSync(join(out, 'warned'), 'utf8');
    if (warned !== '') throw new Error(`the kernel warned of itself:\n${warned.slice(0, 3000)}`);
    return decodeResults(readFileSync(results));
  } finally {
    rmSync(out, { recursive: true, force: true });
  }
}
