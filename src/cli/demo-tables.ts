import { basename } from 'node:path';
import { wrongOf } from './replay/index.ts';
import type { HostHardware } from './replay/rig-sim.ts';
import type { ReplayResult } from './replay/run.ts';
import { table } from './table.ts';

/** A guest that ran on one path over one kind of simulated hardware. */
export interface Way {
  readonly guest: string;
  readonly hardware: HostHardware;
  readonly result: ReplayResult;
}

/** The name of a recorded guest: its file's. */
export function guestOf(file: string): string {
  return basename(file, '.ndjson.gz');
}

/** Lines of at most `columns` columns, a guest each: what was compared, and its host calls beside those of QEMU. */
export function guestTable(results: readonly ReplayResult[], columns: number): string[] {
  const rows = results.map((result) => {
    const { answers, dma, hardwareDma, hostCalls, peerHostCalls } = result;
    const compared = answers.checked + dma.checked + hardwareDma.checked;
    return [guestOf(result.file), compared, wrongOf(result), hostCalls.total, peerHostCalls, timesFewer(peerHostCalls / hostCalls.total)];
  });
  return table(['guest', 'compared', 'wrong', 'host calls', 'QEMU 11.1', 'fewer'], rows, columns);
}

function timesFewer(ratio: number): string {
  return `${ratio < 10 ? ratio.toFixed(1) : Math.round(ratio)}x`;
}

/** Lines of at most `columns` columns, a path each: the host calls that map or unmap, all others, and the time. */
export function pathTable(ways: readonly Way[], columns: number): string[] {
  const rows = ways.map(({ hardware, result }) => {
    const { path, hostCalls, otherCalls, seconds } = result;
    // The last of them: a guest whose IOMMU passes at first is on the plain path until it owns tables.
    return [
      path.slice(path.lastIndexOf(';') + 1).trim(),
      hardware,
      wrongOf(result),
      hostCalls.map + hostCalls.unmap + hostCalls.copy,
      otherCalls,
      `${seconds.toFixed(1)} s`,
    ];
  });
  return table(['path', "host's IOMMU", 'wrong', 'map and unmap', 'others', 'time'], rows, columns);
}
