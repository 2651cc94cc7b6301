import { describe, expect, test } from 'vitest';
import { recording } from './recordings.ts';
import { runCli } from './run-cli.ts';

const LIOBN = '0x80000000';
const put = (page: number, tce: string) => ({ op: 'put', liobn: LIOBN, ioba: `0x${(page * 4096).toString(16)}`, tce, ret: 0 });

/** Maps two pages, takes one away and maps it elsewhere: two operations that remove something. */
const GUEST = [
  {
    op: 'machine',
    target: 'spapr',
    ram: [{ gpa: '0x0', bytes: '0x1000000' }],
    windows: [{ liobn: LIOBN, start: '0x0', pageShift: 12, pages: 1024 }],
  },
  put(0, '0x4003'),
  put(1, '0x5003'),
  { op: 'xlate', liobn: LIOBN, ioba: '0x1000', addr: '0x5000', perm: 3, mask: '0xfff' },
  put(1, '0x0'),
  put(0, '0x6003'),
  { op: 'xlate', liobn: LIOBN, ioba: '0x0', addr: '0x6000', perm: 3, mask: '0xfff' },
];

describe('replay over tables of ours', () => {
  test.each(['vtd', 'smmuv3'])(
    'behind %s: nothing wrong, no map call, one invalidation for each operation that removes',
    async (hardware) => {
      const { status, out } = await runCli('replay', recording(GUEST), '--path', 'user-owned', '--host-hw', hardware, '--json');
      expect(JSON.parse(out)).toMatchObject({
        path: 'user-owned',
        answers: { wrong: 0 },
        hardwareDma: { wrong: 0 },
        hostCalls: { total: 0 },
        otherCalls: 2,
      });
      expect(status).toBe(0);
    },
  );

  test('with a queue of commands: no host call at all', async () => {
    const { status, out } = await runCli('replay', recording(GUEST), '--path', 'user-owned-queue', '--host-hw', 'smmuv3-cmdqv', '--json');
    expect(JSON.parse(out)).toMatchObject({
      path: 'user-owned-queue',
      answers: { wrong: 0 },
      hardwareDma: { wrong: 0 },
      hostCalls: { total: 0 },
      otherCalls: 0,
    });
    expect(status).toBe(0);
  });

  test('a virtio-iommu guest whose input range is wider than first stages reach has one that they reach, and that is said', async () => {
    const guest = [
      {
        op: 'machine',
        target: 'virtio-iommu',
        ram: [{ gpa: '0x0', bytes: '0x1000000' }],
        pageSizeMask: '0xfffffffffffff000',
        inputRange: { start: '0x0', last: '0xffffffffffff' },
        domainRange: { start: 0, last: 9 },
        probeBytes: 512,
        bypass: 1,
      },
      { op: 'attach', domain: 0, endpoint: 16 },
    ];
    const { status, out } = await runCli('replay', recording(guest), '--path', 'user-owned', '--host-hw', 'vtd', '--json');
    expect(JSON.parse(out)).toMatchObject({
      path: 'user-owned',
      answers: { checked: 1, wrong: 0 },
      notes: ["the input range ends at 0x7fffffffffff, for the hardware's first stages do; recorded was 0xffffffffffff"],
    });
    expect(status).toBe(0);
  });
});
