/*
 * npx tsx bench/kernel/main.ts [--json]: what a map and unmap costs through the driver and koffi, beside the same calls in C, on the
 * real kernel of the lab's VM. Goal: 1.35 for 4 KiB.
 */
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { bootVm, closeLab, openLab } from '../../test/kernel/lab.ts';

const GOAL = 1.35;
const here = import.meta.dirname;

interface Row {
  readonly name: string;
  readonly variant: string;
  readonly nsPerOp: number;
  readonly nsPerPage: number;
  readonly baseline: 'c';
  readonly baselineNsPerOp: number;
  readonly ratio: number;
  readonly goal: number | null;
  readonly met: boolean | null;
}

function rowsOf(results: string): Row[] {
  const runs = results
    .trim()
    .split('\n')
    .map((line) => line.split(' '));
  const nanoseconds = (bytes: string, who: string) =>
    Math.min(...runs.filter((run) => run[0] === bytes && run[1] === who).map((run) => Number(run[2])));
  return [...new Set(runs.map(([bytes]) => bytes))].map((bytes) => {
    const nsPerOp = nanoseconds(bytes, 'viommu');
    const baselineNsPerOp = nanoseconds(bytes, 'c');
    const ratio = nsPerOp / baselineNsPerOp;
    const goal = bytes === '4096' ? GOAL : null;
    const nsPerPage = (nsPerOp * 4096) / Number(bytes);
    return {
      name: 'map-unmap-kernel',
      variant: bytes,
      nsPerOp,
      nsPerPage,
      baseline: 'c',
      baselineNsPerOp,
      ratio,
      goal,
      met: goal === null ? null : ratio <= goal,
    };
  });
}

async function main(): Promise<void> {
  await openLab();
  const out = mkdtempSync(join(tmpdir(), 'viommu-bench-'));
  try {
    execFileSync('cc', ['-O3', '-static', '-o', join(out, 'map-unmap'), join(here, 'map-unmap.c')]);
    const output = await bootVm({ iommu: 'vtd', script: 'bench/kernel/in-vm.sh', out, seconds: 300 });
    const rows = rowsOf(readFileSync(join(out, 'results'), 'utf8'));
    if (rows.length === 0) throw new Error(`the VM gave no results:\n${output.slice(-2000)}`);
    if (process.argv.includes('--json')) console.log(JSON.stringify({ rows }));
    else {
      for (const row of rows) {
        const goal = row.goal === null ? '' : `, goal ${row.goal}: ${row.met ? 'met' : 'missed'}`;
        console.log(
          `${row.variant} bytes: ${(row.nsPerOp / 1000).toFixed(1)} µs (C ${(row.baselineNsPerOp / 1000).toFixed(1)} µs, ratio ${row.ratio.toFixed(2)}${goal}); ${row.nsPerPage.toFixed(0)} ns per 4 KiB`,
        );
      }
    }
  } finally {
    rmSync(out, { recursive: true, force: true });
    await closeLab();
  }
}

await main();
