import { execFile } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { KERNEL_ARGUMENTS, lab, runLabVm } from '../lab.ts';
import { QEMU_ARGUMENTS, SETUP } from './machine.ts';
import { type Area, decodeResults, encodePrograms, type Played, type Program } from './program.ts';

const run = promisify(execFile);

/** A call that never comes back stops the player only: what was played is handed over all the same, and what the kernel has said. */
const SCRIPT = [
  ...SETUP,
  'cp /mnt/player /mnt/programs /tmp',
  'timeout 600 /tmp/player /tmp/programs /tmp/results $paths',
  'cp /tmp/results /mnt',
  "dmesg | grep -E -A30 'cut here|BUG|INFO: task' >/mnt/warned; true",
];

/** Programs that are made and compared: 1,000, or as many as VIOMMU_PROGRAMS says. */
export const programCount = Number(process.env['VIOMMU_PROGRAMS'] ?? 1000);

/** The first program's seed: VIOMMU_SEED fixes it, as for the property tests; elsewhere every run draws anew. */
export const firstSeed = (Number(process.env['VIOMMU_SEED'] ?? Date.now() % 1_000_000) * 1_000_003) % 2 ** 31;

/** What the real kernel made of programs, as far as the player came, and what it said of itself: nothing, if all is well. */
export interface Run {
  readonly played: readonly Played[];
  readonly warned: string;
}

/** Plays programs on the real kernel, in the VM. @throws Error with what the VM said when there are no results at all. */
export async function playInVm(areas: readonly Area[], programs: readonly Program[]): Promise<Run> {
  const out = mkdtempSync(join(tmpdir(), 'viommu-lockstep-'));
  try {
    await run('cc', ['-O1', '-static', '-o', join(out, 'player'), join(lab, 'player.c')]);
    writeFileSync(join(out, 'programs'), encodePrograms(areas, programs));
    writeFileSync(join(out, 'run.sh'), SCRIPT.join('\n'));
    const said = await runLabVm('vm-x86_64', ['-v', 'vtd', '-T', '900', '-a', KERNEL_ARGUMENTS, '-x', QEMU_ARGUMENTS, '/mnt/run.sh'], out);
    const [results, warned] = ['results', 'warned'].map((name) => join(out, name));
    if (!existsSync(results)) throw new Error(`the VM gave no results:\n${said.slice(-3000)}`);
    return {
      played: decodeResults(readFileSync(results)),
      warned: existsSync(warned) ? readFileSync(warned, 'utf8').slice(0, 3000) : said.slice(-3000),
    };
  } finally {
    rmSync(out, { recursive: true, force: true });
  }
}
