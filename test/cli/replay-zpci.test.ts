import { expect, test } from 'vitest';
import { recording } from './recordings.ts';
import { runCli } from './run-cli.ts';

const FIRST = 0x1_0000_0000;
const MACHINE = {
  op: 'machine',
  target: 'zpci',
  ram: [{ gpa: '0x0', bytes: '0x100000' }],
  functions: [{ fid: 1, uid: 1, handle: '0x80020000', group: 255, aperture: { start: '0x100000000', end: '0x1ffffffffffffff' } }],
};
const HANDLE = '0x80020000';
/** Region third entry 2 leads to a segment table, its entry 0 to a page table that maps two pages, the second one read-only. */
const GUEST = [
  MACHINE,
  { op: 'sclp', command: '0x1b0001', fid: 1 },
  { op: 'sclp', command: '0x1a0001', fid: 1 },
  { op: 'clpQuery', handle: '0x20000', rsp: '0x10', fid: 1, uid: 1, group: 255, sdma: '0x100000000', edma: '0x1ffffffffffffff' },
  { op: 'clpSet', handle: '0x20000', oc: 0, ndas: 1, rsp: '0x10', newHandle: HANDLE },
  { op: 'mem', addr: '0x4010', hex: '0000000000008007' },
  { op: 'mem', addr: '0x8000', hex: '000000000000c000' },
  { op: 'mem', addr: '0xc000', hex: '00000000000200000000000000021200' },
  { op: 'mem', addr: '0xc010', hex: '0000000000000400' },
  mpcifc(4, 0),
  { op: 'xlate', function: 1, iova: '0x100000008', addr: '0x20008', perm: 3 },
  { op: 'xlate', function: 1, iova: '0x100001008', addr: '0x21008', perm: 1 },
  { op: 'xlate', function: 1, iova: '0x100001008', addr: '0x21008', perm: 1, fault: true, access: 'write' },
  { op: 'event', kind: 'error', handle: HANDLE, fid: 1, faddr: '0x100001008', pec: 4 },
  { op: 'rpcit', handle: HANDLE, iova: '0x100000000', bytes: '0x1000', cc: 1, status: 40 },
  { op: 'xlate', function: 1, iova: '0x100000008', addr: '0x20008', perm: 3, by: 'vfio-user', access: 'read' },
  { op: 'clpSet', handle: HANDLE, oc: 1, ndas: 0, rsp: '0x10', newHandle: '0x20000' },
  { op: 'clpSet', handle: '0x20000', oc: 0, ndas: 1, rsp: '0x10', newHandle: HANDLE },
  mpcifc(4, 0),
  { op: 'xlate', function: 1, iova: '0x100000008', fault: true, unrefreshed: true },
  { op: 'event', kind: 'error', handle: HANDLE, fid: 1, faddr: '0x100000008', pec: 4 },
  { op: 'rpcit', handle: HANDLE, iova: '0x100000000', bytes: '0x1000', cc: 1, status: 40 },
  { op: 'clpGroup', group: 255, rsp: '0x10', refresh: 1, dasm: '0x0', msia: '0xfe00000000000000' },
];

function mpcifc(oc: number, cc: number) {
  const fib = new DataView(new ArrayBuffer(0x50));
  fib.setBigUint64(0x10, BigInt(FIRST));
  fib.setBigUint64(0x18, BigInt(FIRST) + 0xffffn);
  fib.setBigUint64(0x20, 0x4804n);
  return { op: 'mpcifc', handle: HANDLE, dmaas: 0, oc, fib: Buffer.from(fib.buffer).toString('hex'), cc, status: 0 };
}

test('faults, functions disabled and enabled again, and what only QEMU faults at', async () => {
  const { status, out, err } = await runCli('replay', recording(GUEST), '--json');
  expect(err).toBe('');
  expect(JSON.parse(out)).toMatchObject({ answers: { wrong: 0 }, dma: { wrong: 0 }, hardwareDma: { wrong: 0 } });
  expect(status).toBe(0);
});

test.each([
  ['a condition code', 9, { cc: 1 }, 'ends with condition code 0, not 1'],
  ['a translation', 10, { addr: '0x30008' }, 'software read reaches 0x20008, not 0x30008'],
  ['a permission', 11, { perm: 3 }, 'grants 1, not 3'],
  ['an event', 13, { pec: 7 }, 'the event is 0x4'],
  ['whether a group is refreshed', 22, { refresh: 0 }, 'refresh 0x1, not 0x0'],
  ['where messages of a group go', 22, { msia: '0x0' }, 'msia 0xfe00000000000000, not 0x0'],
  ['an aperture', 3, { edma: '0xffffffff' }, 'edma 0x1ffffffffffffff, not 0xffffffff'],
  ['a handle', 4, { newHandle: '0x80020001' }, 'newHandle 0x80020000'],
])('a wrong recording of %s is found', async (_, at, change, what) => {
  const { status, out } = await runCli('replay', recording(GUEST.map((line, i) => (i === at ? { ...line, ...change } : line))));
  expect(status).toBe(1);
  expect(out).toContain(what);
});

test.each([
  ['an operation that there is not', [MACHINE, { op: 'dance' }]],
  ['bytes that are none', [MACHINE, { op: 'mem', addr: '0x0', hex: 'xy' }]],
  ['memory outside RAM', [MACHINE, { op: 'mem', addr: '0x100000', hex: '00' }]],
])('refuses %s', async (_, lines) => {
  const file = recording(lines);
  const { status, err } = await runCli('replay', file);
  expect(status).toBe(1);
  expect(err).toContain(`${file}:2: `);
});
