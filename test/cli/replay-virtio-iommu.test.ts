import { describe, expect, test } from 'vitest';
import { recording } from './recordings.ts';
import { runCli } from './run-cli.ts';

const MACHINE = {
  op: 'machine',
  target: 'virtio-iommu',
  ram: [{ gpa: '0x0', bytes: '0x1000000' }],
  pageSizeMask: '0xfffffffffffff000',
  inputRange: { start: '0x0', last: '0x7fffffffff' },
  domainRange: { start: 0, last: 4294967295 },
  probeBytes: 512,
  bypass: 1,
};
const READ = 1;
const WRITE = 2;

/** A guest that uses every line kind: a bypassing access, an MSI, mappings, an UNMAP of two of them. */
const GUEST = [
  MACHINE,
  { op: 'dma', endpoint: 8, iova: '0x5000', flag: WRITE },
  { op: 'reserved', endpoint: 16, subtype: 1, start: '0xfee00000', end: '0xfeefffff' },
  { op: 'attach', domain: 1, endpoint: 16 },
  { op: 'reserved', endpoint: 16, subtype: 1, start: '0xfee00000', end: '0xfeefffff' },
  { op: 'map', domain: 1, virtStart: '0xffff0000', virtEnd: '0xffff1fff', physStart: '0x40000', flags: 3 },
  { op: 'map', domain: 1, virtStart: '0xffff2000', virtEnd: '0xffff2fff', physStart: '0x50000', flags: 1 },
  { op: 'dma', endpoint: 16, iova: '0xffff1008', flag: WRITE },
  { op: 'xlate', endpoint: 16, iova: '0xffff1008', addr: '0x41008' },
  { op: 'dma', endpoint: 16, iova: '0xfee00000', flag: WRITE },
  { op: 'dma', endpoint: 16, iova: '0xffff2ff8', flag: READ },
  { op: 'xlate', endpoint: 16, iova: '0xffff2ff8', addr: '0x50ff8' },
  { op: 'unmap', domain: 1, virtStart: '0xffff0000', virtEnd: '0xffff2fff' },
  { op: 'unmapped', domain: 1, virtStart: '0xffff0000', virtEnd: '0xffff1fff' },
  { op: 'unmapped', domain: 1, virtStart: '0xffff2000', virtEnd: '0xffff2fff' },
  { op: 'detach', domain: 1, endpoint: 16 },
];

const changed = (at: number, change: object): object[] => GUEST.map((line, i) => (i === at ? { ...line, ...change } : line));

describe('replay of a virtio-iommu guest', () => {
  test('every line kind', async () => {
    const { status, out } = await runCli('replay', recording(GUEST), '--json');
    expect(JSON.parse(out)).toMatchObject({
      target: 'virtio-iommu',
      path: 'shadow',
      answers: { checked: 7, wrong: 0 },
      dma: { checked: 4, wrong: 0 },
      // The MSI is none of the memory's.
      hardwareDma: { checked: 3, wrong: 0 },
    });
    expect(status).toBe(0);
  });

  test.each([
    ['a translation', 8, { addr: '0x42008' }, { dma: 1, hardwareDma: 1, answers: 0 }],
    ['a reserved region', 4, { start: '0xfed00000' }, { dma: 0, hardwareDma: 0, answers: 1 }],
    ['the kind of a reserved region', 4, { subtype: 0 }, { dma: 0, hardwareDma: 0, answers: 1 }],
    ['what an UNMAP removed', 14, { op: 'detach', domain: 1, endpoint: 16 }, { dma: 0, hardwareDma: 0, answers: 2 }],
    ['a write where only reading is allowed', 10, { flag: WRITE }, { dma: 1, hardwareDma: 1, answers: 0 }],
  ])('is wrong when the recording says otherwise of %s', async (_, at, change, wrong) => {
    const { status, out } = await runCli('replay', recording(changed(at, change)), '--json');
    const result = JSON.parse(out);
    expect({ dma: result.dma.wrong, hardwareDma: result.hardwareDma.wrong, answers: result.answers.wrong }).toEqual(wrong);
    expect(status).toBe(1);
  });

  test('what an UNMAP removed is compared at the end, too', async () => {
    const { status, out } = await runCli('replay', recording(GUEST.slice(0, 14)));
    expect([status, out]).toEqual([1, expect.stringContaining('line 13: UNMAP removes 2 mappings, not 1')]);
  });

  test('a page that is for writing only: what first stages let through is said, and any other read is wrong', async () => {
    const write = { op: 'dma', endpoint: 16, iova: '0xffff0008', flag: WRITE };
    const lines = (flags: number) => [
      MACHINE,
      GUEST[2],
      GUEST[3],
      { op: 'map', domain: 1, virtStart: '0xffff0000', virtEnd: '0xffff0fff', physStart: '0x40000', flags },
      ...(flags === WRITE ? [write, { op: 'xlate', endpoint: 16, iova: '0xffff0008', addr: '0x40008' }] : []),
      { op: 'dma', endpoint: 16, iova: '0xffff0008', flag: READ },
      { op: 'fault', endpoint: 16, iova: '0xffff0008', reason: 2, flags: 0x101 },
    ];
    const over = async (flags: number, ...options: string[]) => {
      const { status, out } = await runCli('replay', recording(lines(flags)), '--json', ...options);
      const { hardwareDma, notes } = JSON.parse(out);
      return { status, wrong: hardwareDma.wrong, notes: notes ?? [] };
    };
    const firstStage = ['--path', 'user-owned', '--host-hw', 'smmuv3'];
    expect(await over(WRITE, ...firstStage)).toEqual({
      status: 0,
      wrong: 0,
      notes: [expect.stringMatching(/^1 reads of write-only pages/)],
    });
    expect(await over(WRITE)).toEqual({ status: 0, wrong: 0, notes: [] });
    expect(await over(READ, ...firstStage)).toEqual({ status: 1, wrong: 1, notes: [] });
  });

  test('says why the host refuses an ATTACH: a guest is promised what no first stage of VT-d translates', async () => {
    const wide = { ...MACHINE, inputRange: { start: '0x800000000000', last: '0xffffffffffff' } };
    const { status, out } = await runCli('replay', recording([wide, GUEST[3]]), '--path', 'user-owned', '--host-hw', 'vtd');
    expect(status).toBe(1);
    expect(out).toMatch(
      /wrong: line 2: attach answers DEVERR, not OK: .*user-owned: domain 1 reaches beyond .* the hardware's first stage/,
    );
  });

  test.each([
    ['an xlate without its dma', [MACHINE, GUEST[8]], 2],
    ['an unmapped without its unmap', [MACHINE, GUEST[13]], 2],
    ['an operation of another target', [MACHINE, { op: 'put' }], 2],
    ['a machine that cannot be', [{ ...MACHINE, pageSizeMask: '0x0' }], 1],
    ['a range without its end', [{ ...MACHINE, inputRange: { start: '0x0' } }], 1],
    ['a machine without RAM', [{ ...MACHINE, ram: [] }], 1],
    ['an access that does nothing', [MACHINE, { ...GUEST[1], flag: 0 }], 2],
    ['an access that does what there is not', [MACHINE, { ...GUEST[1], flag: 4 }], 2],
    ['an endpoint that cannot be', [MACHINE, { ...GUEST[2], end: '0x0' }, GUEST[3]], 3],
  ])('refuses %s', async (_, lines, line) => {
    const file = recording(lines);
    const { status, err } = await runCli('replay', file);
    expect(status).toBe(1);
    expect(err.split('\n')).toHaveLength(1);
    // Once, however many looked at the line.
    expect(err.split(`${file}:${line}: `)).toHaveLength(2);
  });
});
