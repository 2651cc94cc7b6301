import { describe, expect, test } from 'vitest';
import { guestTable, pathTable } from '../../src/cli/demo-tables.ts';
import type { ReplayResult } from '../../src/cli/replay/run.ts';

function tally(checked: number, wrong: number): ReplayResult['dma'] {
  return { checked, wrong } as ReplayResult['dma'];
}

function result(fields: Partial<ReplayResult>): ReplayResult {
  return {
    file: '/recordings/a-guest.ndjson.gz',
    target: 'spapr',
    host: 'iommufd',
    port: 'sim',
    path: 'shadow',
    ops: {},
    answers: tally(1000, 0),
    dma: tally(200, 0),
    hardwareDma: tally(34, 0),
    hostCalls: { map: 5, unmap: 3, copy: 2, attach: 1, total: 11 },
    otherCalls: 7,
    setup: { calls: 4 },
    splits: { withGap: 0, withoutGap: 0 },
    peerHostCalls: 22,
    seconds: 1.26,
    ...fields,
  };
}

describe('what demo shows', () => {
  test('of a guest: all that was compared, all that was wrong, and how many times fewer host calls', () => {
    const wrong = { answers: tally(1, 1), dma: tally(2, 2), hardwareDma: tally(4, 4), peerHostCalls: 45_055 };
    expect(guestTable([result({}), result({ file: 'b.ndjson.gz', ...wrong })], 80)).toEqual([
      'guest    compared  wrong  host calls  QEMU 11.1  fewer',
      'a-guest     1,234      0          11         22   2.0x',
      'b               7      7          11     45,055  4096x',
    ]);
  });

  test('of a path: what maps, unmaps and copies, the rest beside it', () => {
    expect(pathTable([{ guest: 'a-guest', hardware: 'smmuv3', result: result({ path: 'shadow; shadow, watched' }) }], 80)).toEqual([
      "path             host's IOMMU  wrong  map and unmap  others   time",
      'shadow, watched        smmuv3      0             10       7  1.3 s',
    ]);
  });
});
