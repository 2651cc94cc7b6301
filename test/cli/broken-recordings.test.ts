import { fc, test as property } from '@fast-check/vitest';
import { describe, expect, test } from 'vitest';
import { reaching } from '../reaching.ts';
import { recording } from './recordings.ts';
import { runCli } from './run-cli.ts';

const RAM = [{ gpa: '0x0', bytes: '0x100000' }];

/** A recording of each form, with each of its operations. */
const RECORDINGS: Readonly<Record<string, readonly object[]>> = {
  spapr: [
    {
      op: 'machine',
      target: 'spapr',
      ram: RAM,
      windows: [{ liobn: 1, start: '0x0', pageShift: 12, pages: 64 }],
      ddw: { windows: 1, pageSizeMask: '0x3', start: '0x800000000000000', liobn: 2 },
    },
    { op: 'put', liobn: 1, ioba: '0x1000', tce: '0x3003', ret: 0 },
    { op: 'indirect', liobn: 1, ioba: '0x2000', tces: ['0x4003', '0x5001'], ret: 0 },
    { op: 'get', liobn: 1, ioba: '0x1000', ret: 0, tce: '0x3003' },
    { op: 'xlate', liobn: 1, ioba: '0x1002', addr: '0x3000', perm: 3, mask: '0xfff' },
    { op: 'stuff', liobn: 1, ioba: '0x1000', tce: '0x0', npages: 1, ret: 0 },
    { op: 'fault', liobn: 1, ioba: '0x1000' },
    { op: 'ddwQuery', buid: '0x800000020000000', addr: '0x0', windowsAvailable: 1, largestTceBlock: '0x80000000', pageSizeMask: '0x3' },
    {
      op: 'ddwCreate',
      buid: '0x800000020000000',
      addr: '0x0',
      pageBytes: '0x10000',
      windowBytes: '0x100000',
      start: '0x800000000000000',
      liobn: 2,
    },
    { op: 'ddwRemove', liobn: 2, ret: 0 },
    { op: 'ddwReset', buid: '0x800000020000000', addr: '0x0', ret: 0 },
  ],
  'virtio-iommu': [
    {
      op: 'machine',
      target: 'virtio-iommu',
      ram: RAM,
      pageSizeMask: '0xfffffffffffff000',
      inputRange: { start: '0x0', last: '0x7fffffffff' },
      domainRange: { start: 0, last: 9 },
      probeBytes: 512,
      bypass: 1,
    },
    { op: 'reserved', endpoint: 3, subtype: 1, start: '0xfee00000', end: '0xfeefffff' },
    { op: 'attach', domain: 1, endpoint: 3, flags: 0, ret: 0 },
    { op: 'map', domain: 1, virtStart: '0x1000', virtEnd: '0x1fff', physStart: '0x5000', flags: 3 },
    { op: 'dma', endpoint: 3, iova: '0x1002', flag: 1 },
    { op: 'xlate', endpoint: 3, iova: '0x1002', addr: '0x5002' },
    { op: 'dma', endpoint: 3, iova: '0x9000', flag: 1 },
    { op: 'fault', endpoint: 3, iova: '0x9000', reason: 2, flags: 256 },
    { op: 'unmap', domain: 1, virtStart: '0x1000', virtEnd: '0x1fff' },
    { op: 'unmapped', domain: 1, virtStart: '0x1000', virtEnd: '0x1fff' },
    { op: 'detach', domain: 1, endpoint: 3 },
  ],
  zpci: [
    {
      op: 'machine',
      target: 'zpci',
      ram: RAM,
      functions: [{ fid: 1, uid: 1, handle: '0x20000', group: 255, aperture: { start: '0x100000000', end: '0x1ffffffffffffff' } }],
    },
    { op: 'clpQuery', handle: '0x20000', rsp: '0x10', fid: 1, uid: 1, group: 255, sdma: '0x100000000', edma: '0x1ffffffffffffff' },
    { op: 'clpSet', handle: '0x20000', oc: 0, ndas: 1, rsp: '0x10', newHandle: '0x80020000' },
    { op: 'mem', addr: '0x2000', hex: '0000000000000020' },
    { op: 'mpcifc', handle: '0x80020000', dmaas: 0, oc: 4, cc: 0, status: 0, fib: '00'.repeat(128) },
    { op: 'rpcit', handle: '0x80020000', iova: '0x100000000', bytes: '0x1000', cc: 0, status: 0 },
    { op: 'xlate', function: 1, iova: '0x100000000', addr: '0x5000', perm: 3 },
    { op: 'event', pec: '0x3a', handle: '0x80020000', fid: 1, faddr: '0x0' },
    { op: 'sclp', command: '0x1b0001', fid: 1 },
  ],
  vtd: [
    {
      op: 'machine',
      target: 'vtd',
      ram: RAM,
      endpoints: [40],
      options: { cachingMode: 1, scalableMode: 0, interruptRemapping: 0 },
    },
    { op: 'reset' },
    { op: 'memory', words: ['0x1000', '0x3'] },
    { op: 'read', offset: 0, bytes: 4, value: '0x10' },
    { op: 'write', offset: 56, bytes: 4, value: '0x0' },
    { op: 'dma', endpoint: 40, iova: '0x3002', access: 1, addr: '0x3002' },
    { op: 'message', source: 40, address: '0xfee00000', data: 38, taken: true, delivered: ['0xfee00000', '0x26'] },
  ],
  spaces: [
    { op: 'machine', target: 'spaces', of: 'vtd', ram: RAM },
    { op: 'space', space: 0, name: 'a', owner: 'target', granuleLg2: 12, apertures: [0, 1048575] },
    { op: 'attach', endpoint: 8, space: 0, ret: 0 },
    { op: 'attach', endpoint: 8, pasid: 3, space: 0 },
    { op: 'endpoint', endpoint: 8 },
    { op: 'changed', space: 0, first: 1, last: 16, runs: [1, 5, 2, 3, 4, 9, 1, 1] },
    { op: 'flush', ret: 0 },
    { op: 'dma', endpoint: 8, iova: '0x1008', access: 3, addr: '0x5008' },
    { op: 'dma', endpoint: 8, iova: '0x3008', access: 3, fault: -131073 },
    { op: 'ram', ram: [...RAM, { gpa: '0x200000', bytes: '0x1000' }] },
  ],
};

const WRONG = [
  null,
  true,
  '',
  'x',
  '0x',
  '0x10000000000000000',
  '0xffffffffffffffff',
  '0xfffffffffffff000',
  '0x8000000000000000',
  -1,
  0,
  1,
  0.5,
  65,
  -4096,
  2 ** 31,
  2 ** 32,
  2 ** 53,
  1e300,
  [],
  [1],
  [null],
  {},
];

/** Every way to everything that an object holds. */
function fieldsOf(value: unknown): string[][] {
  if (typeof value !== 'object' || value === null) return [];
  return Object.entries(value).flatMap(([key, inner]) => [[key], ...fieldsOf(inner).map((rest) => [key, ...rest])]);
}

/** The same with another value there; undefined: without it. */
function changed(value: unknown, [key, ...rest]: readonly string[], wrong: unknown): unknown {
  if (key === undefined) return wrong;
  const copy = (Array.isArray(value) ? [...value] : { ...(value as object) }) as Record<string, unknown>;
  copy[key] = changed(copy[key], rest, wrong);
  return copy;
}

const CHANGES = Object.entries(RECORDINGS).flatMap(([name, lines]) =>
  lines.flatMap((line, at) => fieldsOf(line).map((field) => ({ name, at, field }))),
);

describe('recordings that are broken', () => {
  test('whole, they are read; only the zPCI guest’s has other answers than the target', async () => {
    for (const [name, lines] of Object.entries(RECORDINGS)) {
      const { status, err } = await runCli('replay', recording(lines));
      expect([name, err, status]).toEqual([name, '', name === 'zpci' ? 1 : 0]);
    }
  });

  const reached = reaching('broken recordings', 'read to the end', 'refused');
  property.prop([fc.constantFrom(...CHANGES), fc.constantFrom(undefined, ...WRONG), fc.constantFrom('iommufd', 'vfio-type1')], {
    numRuns: 60,
  })('any field of any line that is any wrong thing: compared, or one line that says where and what', async (change, wrong, host) => {
    reached();
    const { name, at, field } = change;
    const lines = RECORDINGS[name]!;
    const file = recording(lines.map((line, i) => (i === at ? (changed(line, field, wrong) as object) : line)));
    const { status, err } = await runCli('replay', file, '--host', host);
    reached(err === '' ? 'read to the end' : 'refused');
    expect([0, 1]).toContain(status);
    if (err === '') return;
    expect(status).toBe(1);
    expect(err.startsWith(`viommu replay: ${file}:`), err).toBe(true);
    expect(err.slice(`viommu replay: ${file}:`.length)).toMatch(/^\d+: [^\n]+$/);
  });

  test.each([
    [
      'a run that leads beyond guest-physical addresses',
      { runs: [1, '0xffffffffffffffff', 2, 3] },
      'a run leaves the guest-physical addresses',
    ],
    ['a run outside of what changed', { runs: [20, 5, 1, 3] }, 'a run leaves the range that changed'],
    ['a range that ends before it begins', { first: 9, last: 1 }, '9 to 1 is no range of pages'],
  ])('%s', async (_, part, what) => {
    const file = recording(RECORDINGS['spaces']!.map((line) => ('runs' in line ? { ...line, ...part } : line)));
    expect((await runCli('replay', file)).err).toBe(`viommu replay: ${file}:6: changed: ${what}`);
  });

  test.each([
    [{ granuleLg2: -1 }, "'granuleLg2' is -1: no page is so large"],
    [{ apertures: [5, 2] }, 'an aperture has the pages 5 to 2'],
    [{ apertures: [0, '0xffffffffffffffff'] }, 'an aperture has the pages 0 to 18446744073709552000'],
  ])('a space of %j', async (part, what) => {
    const file = recording(RECORDINGS['spaces']!.map((line) => ('apertures' in line ? { ...line, ...part } : line)));
    expect((await runCli('replay', file)).err).toBe(`viommu replay: ${file}:2: space: ${what}`);
  });

  test('what the host refuses is said with the line that needs it', async () => {
    const [machine, ...rest] = RECORDINGS['virtio-iommu']!;
    // Interrupts' addresses of an x86 host lie within.
    const file = recording([{ ...machine, ram: [{ gpa: '0x0', bytes: '0x100000000' }] }, ...rest]);
    const { status, err } = await runCli('replay', file, '--host', 'vfio-type1');
    expect(status).toBe(1);
    expect(err).toMatch(/^viommu replay: .*:3: attach: VFIO_\w+ [^\n]+$/);
  });
});
