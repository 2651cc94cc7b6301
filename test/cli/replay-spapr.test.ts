import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { describe, expect, test } from 'vitest';
import { folder, recording, traces } from './recordings.ts';
import { runCli } from './run-cli.ts';

const MACHINE = {
  op: 'machine',
  target: 'spapr',
  ram: [{ gpa: '0x0', bytes: '0x1000000' }],
  windows: [{ liobn: '0x80000000', start: '0x0', pageShift: 12, pages: 1024 }],
  ddw: { windows: 1, pageSizeMask: '0x107', start: '0x800000000000000', liobn: '0x80000001' },
};
const BUID = '0x800000020000000';
const LIOBN = '0x80000000';

/** A guest that uses every line kind of a pseries recording. */
const GUEST = [
  MACHINE,
  { op: 'indirect', liobn: LIOBN, ioba: '0x0', tces: ['0x4003', '0x5003', '0x6001', '0x7002'], ret: 0 },
  { op: 'get', liobn: LIOBN, ioba: '0x2000', tce: '0x6001', ret: 0 },
  { op: 'xlate', liobn: LIOBN, ioba: '0x10c8', addr: '0x5000', perm: 3, mask: '0xfff' },
  { op: 'xlate', liobn: LIOBN, ioba: '0x2000', addr: '0x6000', perm: 1, mask: '0xfff' },
  { op: 'xlate', liobn: LIOBN, ioba: '0x3ff8', addr: '0x7000', perm: 2, mask: '0xfff' },
  { op: 'stuff', liobn: LIOBN, ioba: '0x1000', tce: '0x0', npages: 3, ret: 0 },
  { op: 'get', liobn: LIOBN, ioba: '0x3000', tce: '0x0', ret: 0 },
  { op: 'xlate', liobn: LIOBN, ioba: '0x8', addr: '0x4000', perm: 3, mask: '0xfff' },
  { op: 'put', liobn: '0x12345', ioba: '0x0', tce: '0x0', ret: -4 },
  { op: 'ddwQuery', buid: BUID, addr: '0x800', windowsAvailable: 1, largestTceBlock: '0x80000000', pageSizeMask: '0x107' },
  {
    op: 'ddwCreate',
    buid: BUID,
    addr: '0x800',
    pageBytes: '0x10000',
    windowBytes: '0x1000000',
    start: '0x800000000000000',
    liobn: '0x80000001',
  },
  { op: 'put', liobn: '0x80000001', ioba: '0x800000000010000', tce: '0x20003', ret: 0 },
  { op: 'xlate', liobn: '0x80000001', ioba: '0x12340', addr: '0x20000', perm: 3, mask: '0xffff' },
  { op: 'ddwRemove', liobn: '0x80000001', ret: 0 },
  { op: 'put', liobn: '0x80000001', ioba: '0x800000000010000', tce: '0x20003', ret: -4 },
  { op: 'ddwReset', buid: BUID, addr: '0x800' },
];

describe('replay of a pseries guest', () => {
  test('every line kind, as JSON', async () => {
    const { status, out } = await runCli('replay', recording(GUEST), '--json');
    const result = JSON.parse(out);
    expect(result).toMatchObject({
      target: 'spapr',
      host: 'iommufd',
      port: 'sim',
      path: 'shadow',
      ops: { indirect: 1, get: 2, xlate: 5, stuff: 1, put: 3, ddwQuery: 1, ddwCreate: 1, ddwRemove: 1, ddwReset: 1 },
      answers: { wrong: 0 },
      dma: { checked: 10, wrong: 0 },
      hardwareDma: { checked: 10, wrong: 0 },
    });
    expect(result.hostCalls.total).toBe(result.hostCalls.map + result.hostCalls.unmap + result.hostCalls.copy + result.hostCalls.attach);
    expect(status).toBe(0);
  });

  test('wrong answers and wrong DMAs of each kind are counted, named, and end with status 1', async () => {
    const wrong = (from: number, change: object) => GUEST.map((line, i) => (i === from ? { ...line, ...change } : line));
    const answers = await runCli('replay', recording(wrong(2, { tce: '0x6003' })));
    expect(answers.status).toBe(1);
    expect(answers.out).toContain('line 3: get finds TCE 0x6001, not 0x6003');
    const landing = JSON.parse((await runCli('replay', recording(wrong(3, { addr: '0x6000' })), '--json')).out);
    expect([landing.dma.wrong, landing.hardwareDma.wrong]).toEqual([2, 2]);
    const permission = JSON.parse((await runCli('replay', recording(wrong(4, { perm: 3 })), '--json')).out);
    expect([permission.dma.wrong, permission.hardwareDma.wrong]).toEqual([1, 1]);
    const forbidden = JSON.parse((await runCli('replay', recording(wrong(3, { perm: 1 })), '--json')).out);
    expect([forbidden.dma.wrong, forbidden.hardwareDma.wrong]).toEqual([1, 1]);
  });

  test.each([
    ['no JSON', [MACHINE, '{"op":"put"'], 2, 'is no JSON'],
    ['no object', [MACHINE, '7'], 2, 'is no JSON object'],
    ['no op', [MACHINE, {}], 2, "has no 'op'"],
    ['an unknown op', [MACHINE, { op: 'dance' }], 2, 'is no operation'],
    ['a field that is missing', [MACHINE, { op: 'put', liobn: LIOBN, tce: '0x0', ret: 0 }], 2, "'ioba' is no 64-bit value"],
    [
      'a value too wide',
      [MACHINE, { op: 'put', liobn: LIOBN, ioba: '0x11111111111111111', tce: '0x0', ret: 0 }],
      2,
      "'ioba' is no 64-bit value",
    ],
    ['no machine line', [GUEST[1]], 1, "is not the 'machine' line"],
    ['an unknown target', [{ ...MACHINE, target: 'toaster' }], 1, "target 'toaster' cannot be replayed"],
    ['a window that cannot be', [{ ...MACHINE, windows: [{ ...MACHINE.windows[0], pages: 0 }] }], 1, 'TCEs'],
    ['no RAM', [{ ...MACHINE, ram: [] }], 1, "machine: 'ram' has no region"],
    ['RAM of no bytes', [{ ...MACHINE, ram: [{ gpa: '0x0', bytes: '0x0' }] }], 1, 'machine: '],
    ['dynamic windows without a mask', [{ ...MACHINE, ddw: { windows: 1 } }], 1, "machine.ddw: 'liobn' is no 64-bit value"],
    ['an xlate that accesses less than nothing', [MACHINE, { ...GUEST[3], perm: -1 }], 2, "xlate: 'perm' is -1"],
    ['an xlate that accesses what there is not', [MACHINE, { ...GUEST[3], perm: 4 }], 2, "xlate: 'perm' is 4"],
    ['RAM that cannot be', [{ ...MACHINE, ram: [{ gpa: '0x10', bytes: '0x1000' }] }], 1, 'machine: '],
    [
      'an xlate in no window',
      [MACHINE, { op: 'xlate', liobn: '0x7', ioba: '0x0', addr: '0x0', perm: 3, mask: '0xfff' }],
      2,
      'no window has LIOBN 0x7',
    ],
  ])('a malformed recording is refused with file and line: %s', async (_, lines, line, what) => {
    const file = recording(lines as object[]);
    const { status, err, out } = await runCli('replay', file, '--json');
    expect(status).toBe(1);
    // Once, however many looked at the line.
    expect(err.split(`${file}:${line}: `)).toHaveLength(2);
    expect(err).toContain(what);
    expect(err.split('\n')).toHaveLength(1);
    expect(JSON.parse(out).error).toContain(`${file}:${line}: `);
  });

  test('a recording that breaks off is refused', async () => {
    const whole = gzipSync(GUEST.map((line) => JSON.stringify(line)).join('\n'));
    const cut = join(folder, 'cut.ndjson.gz');
    writeFileSync(cut, whole.subarray(0, whole.length - 30));
    const broken = await runCli('replay', cut);
    expect(broken.status).toBe(1);
    expect(broken.err).toMatch(/cut\.ndjson\.gz:\d+: /);
  });

  test.each([
    ['is empty', []],
    ['holds no operation', [MACHINE]],
  ])('a recording that %s is refused: nothing compared is nothing right', async (what, lines) => {
    const file = recording(lines);
    const { status, err } = await runCli('replay', file);
    expect(status).toBe(1);
    expect(err).toBe(`viommu replay: ${file}:1: ${what}`);
  });

  test.each([
    [['replay'], "missing required argument 'FILE'"],
    [['replay', 'a', 'b'], 'Expected 1 argument but got 2'],
    [['replay', 'nowhere.gz'], 'ENOENT'],
    [['replay', folder], 'is no file'],
    [['replay', recording(GUEST), '--host', 'abacus'], 'choices are iommufd'],
    [['replay', recording(GUEST), '--port', 'usb'], 'choices are sim'],
    [['replay', recording(GUEST), '--path', 'scenic'], 'choices are auto, '],
    [['replay', recording(GUEST), '--fast'], '--fast'],
    [['rewind'], "unknown command 'rewind'"],
  ])('misuse ends with status 2 and one line: %j', async (args, what) => {
    const { status, err, out } = await runCli(...args);
    expect(status).toBe(2);
    expect(err).toContain(what);
    expect(err.split('\n')).toHaveLength(1);
    expect(out).toBe('');
  });
});

describe('the recorded Linux guests', () => {
  test.each([
    ['smmuv3-cmdqv', 'pseries-linux-6.12-ddw-64k', '0x800000000000'],
    ['vtd', 'pseries-linux-6.12-two-bridges', '0x400000000000'],
  ])('in tables of ours on %s, %s: its dynamic windows lie where first stages reach', async (hardware, name, start) => {
    const path = hardware === 'smmuv3-cmdqv' ? 'user-owned-queue' : 'user-owned';
    const { status, out } = await runCli('replay', join(traces, `${name}.ndjson.gz`), '--path', path, '--host-hw', hardware, '--json');
    const result = JSON.parse(out);
    expect(result).toMatchObject({ path, answers: { wrong: 0 }, dma: { wrong: 0 }, hardwareDma: { wrong: 0 } });
    expect(status).toBe(0);
    expect(result.hardwareDma.checked).toBe(result.dma.checked);
    expect(result.notes).toHaveLength(1);
    expect(result.notes[0]).toContain(`begin at ${start}`);
    expect(result.hostCalls.unmap).toBe(0);
  });
});
