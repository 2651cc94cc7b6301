import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { simRig } from '../../src/cli/replay/rig-sim.ts';
import { RIG_DEVICES, replayOn } from '../../src/cli/replay/run.ts';
import { recording, traces } from './recordings.ts';
import { runCli } from './run-cli.ts';

const files = readdirSync(traces).filter((name) => name.endsWith('.ndjson.gz'));

/** A POWER host's windows begin at 0, with 2 GiB, and at 2^59; an s390 guest's aperture lies between, and so does a RISC-V guest's RAM, which it reaches as it is. */
const unserved = (host: string, file: string): boolean => host === 'vfio-spapr-tce' && /^(zpci|riscv)/.test(file);

const right = (checked: number) => ({ checked, wrong: 0 });

/** Of some guests it is known what was recorded, and with how few host calls it can be followed. */
const known: Readonly<Record<string, { ops?: object; answers?: object; dma?: object; hardwareDma?: object; hostCalls?: object }>> = {
  'pseries-linux-6.12-put-tce': {
    ops: { put: 282_712, xlate: 16_379 },
    dma: right(2 * 16_379),
    hardwareDma: right(2 * 16_379),
    hostCalls: { total: 20_568 },
  },
  // Its window at 2^59 is one that a POWER host has to create, beside the default one.
  'pseries-linux-6.12-ddw': {
    ops: { put: 262_208, xlate: 9_814 },
    dma: right(2 * 9_814),
    hardwareDma: right(2 * 9_814),
    hostCalls: { map: 64, unmap: 0, total: 64 },
  },
  // 5,764 MAPs and 3,153 UNMAPs; four endpoints come up in bypass mode: RAM is mapped for each, and each is moved to its domain. Before,
  // each is in an empty space and out of it again, for that is when the kernel says what is reserved for it.
  'virtio-iommu-linux-6.12': {
    dma: right(17_370),
    hardwareDma: right(16_980),
    hostCalls: { map: 5_764 + 4, unmap: 3_153, copy: 0 },
  },
  // Functions stay attached when a translation is registered, and one is unregistered: 7,650 calls of all kinds on iommufd.
  'zpci-linux-6.12-lazy': {
    ops: { xlate: 86_826, rpcit: 6_203, mpcifc: 20 },
    answers: right(93_061),
    dma: right(168_321),
    hardwareDma: right(168_321),
    hostCalls: { map: 6_870, unmap: 779, copy: 0 },
  },
};

/** One pass over the recording, which takes as long to read as to follow, serves all hosts. */
describe('every recorded guest over every host interface', () => {
  test.each(files)('%s', async (file) => {
    const hosts = ['iommufd', 'vfio-type1', 'vfio-spapr-tce'].filter((host) => !unserved(host, file));
    const rigs = hosts.map((host) => simRig(host, RIG_DEVICES));
    const results = await replayOn({ file: join(traces, file), path: 'auto' }, rigs);
    for (const rig of rigs) rig.close();
    for (const [i, result] of results.entries()) {
      const host = hosts[i];
      expect(result).toMatchObject({ host, answers: { wrong: 0 }, dma: { wrong: 0 }, hardwareDma: { wrong: 0 } });
      expect(result, host).toMatchObject(known[file.split('.ndjson')[0]] ?? {});
      expect(result.dma.checked, host).toBeGreaterThan(1000);
      expect(result.hardwareDma.checked, host).toBeGreaterThan(1000);
      if (host === 'iommufd' && file.startsWith('zpci')) expect(result.hostCalls.total).toBe(7_650);
    }
  });
});

test.each([
  ['zpci-linux-6.12-lazy', /:1: machine: reach \[0x[\da-f]+, 0x[\da-f]+\]: ERANGE \(pages that the guest is promised\)/],
  ['riscv-linux-7.2', /shadow: VFIO_IOMMU_MAP_DMA .*EINVAL \(not within one DMA window\)/],
])('%s on a POWER host is refused, by what its windows do not reach', async (name, reason) => {
  const rig = simRig('vfio-spapr-tce', RIG_DEVICES);
  await expect(replayOn({ file: join(traces, `${name}.ndjson.gz`), path: 'auto' }, [rig])).rejects.toThrow(reason);
  rig.close();
});

describe('recorded guests by other paths than the shadow', () => {
  test.each([
    ['smmuv3-linux-6.12', 'smmuv3', 'nested'],
    ['smmuv3-linux-6.12', 'smmuv3-cmdqv', 'nested-queue'],
    ['smmuv3-linux-6.12', 'smmuv3', 'user-owned; user-owned, watched'],
    ['riscv-linux-7.2', 'vtd', 'user-owned; user-owned, watched'],
    ['amd-linux-6.12-npcache', 'smmuv3', 'user-owned'],
    ['virtio-iommu-linux-6.12-arm64-16k', 'smmuv3-cmdqv', 'user-owned-queue'],
  ])('%s behind %s: %s', async (file, hardware, path) => {
    const [wish] = path.split(/[,;]/);
    const { status, out } = await runCli('replay', join(traces, `${file}.ndjson.gz`), '--host-hw', hardware, '--path', wish, '--json');
    const result = JSON.parse(out);
    expect(result).toMatchObject({ path, answers: { wrong: 0 }, dma: { wrong: 0 }, hardwareDma: { wrong: 0 }, hostCalls: { unmap: 0 } });
    expect(result.hardwareDma.checked).toBeGreaterThan(1000);
    expect(status).toBe(0);
  });
});

test('a guest that no path of the wish can take is refused by name, with the line', async () => {
  const { status, err } = await runCli('replay', join(traces, 'riscv-linux-7.2.ndjson.gz'), '--host-hw', 'vtd', '--path', 'nested');
  expect(status).toBe(1);
  expect(err).toMatch(/:72: memory: endpoint 0x28 is blocked: .*nested: riscv: its guest has no first stage that hardware could walk/);
});

const MACHINE = {
  op: 'machine',
  target: 'spapr',
  ram: [{ gpa: '0x0', bytes: '0x10000' }],
  bridges: [0, 1].map((i) => ({
    buid: `0x${(0x10 + i).toString(16)}`,
    windows: [{ liobn: i + 1, start: '0x0', pageShift: 12, pages: 16 }],
  })),
};
const put = (liobn: number, tce: string) => ({ op: 'put', liobn, ioba: '0x1000', tce, ret: 0 });

async function replayed(...lines: object[]) {
  const { status, out } = await runCli('replay', recording([MACHINE, ...lines]), '--json');
  return { status, result: JSON.parse(out) };
}

describe('what faults and resets mean', () => {
  test('each bridge has its own windows, and a reset empties them', async () => {
    const at = (liobn: number, addr: string, perm: number) => ({ op: 'xlate', liobn, ioba: '0x1000', addr, perm, mask: '0xfff' });
    const { status, result } = await replayed(
      put(1, '0x3003'),
      put(2, '0x4001'),
      at(1, '0x3000', 3),
      at(2, '0x4000', 1),
      { op: 'reset' },
      at(1, '0x0', 0),
      {
        op: 'fault',
        liobn: 2,
        ioba: '0x1000',
      },
    );
    expect(status).toBe(0);
    expect(result.hardwareDma).toEqual({ checked: 8, wrong: 0 });
  });

  test('a fault where the access goes through is wrong, in software and on the hardware', async () => {
    const { status, result } = await replayed(put(1, '0x3003'), { op: 'fault', liobn: 1, ioba: '0x1000' });
    expect(status).toBe(1);
    expect([result.dma.wrong, result.hardwareDma.wrong]).toEqual([2, 2]);
  });

  test('a fault behind its translation is about what the TCE does not allow', async () => {
    const xlate = { op: 'xlate', liobn: 1, ioba: '0x1000', addr: '0x3000', perm: 1, mask: '0xfff' };
    expect((await replayed(put(1, '0x3001'), xlate, { op: 'fault', liobn: 1, ioba: '0x1000' })).status).toBe(0);
    expect((await replayed(put(1, '0x3003'), { ...xlate, perm: 3 }, { op: 'fault', liobn: 1, ioba: '0x1000' })).status).toBe(1);
  });

  test("a virtio-iommu's fault is compared with its reason", async () => {
    const { out } = await runCli('replay', join(traces, 'virtio-iommu-linux-6.12-vfio-faults.ndjson.gz'), '--json');
    expect(JSON.parse(out).ops.fault).toBe(604);
    const machine = {
      op: 'machine',
      target: 'virtio-iommu',
      ram: [{ gpa: '0x0', bytes: '0x10000' }],
      pageSizeMask: '0xfffffffffffff000',
      inputRange: { start: '0x0', last: '0xffffffff' },
      domainRange: { start: 0, last: 9 },
      probeBytes: 512,
      bypass: 1,
    };
    const lines = (reason: number) => [
      machine,
      { op: 'attach', domain: 1, endpoint: 3 },
      { op: 'dma', endpoint: 3, iova: '0x1000', flag: 1 },
      { op: 'fault', endpoint: 3, iova: '0x1000', reason, flags: 256 },
    ];
    expect((await runCli('replay', recording(lines(2)))).status).toBe(0);
    expect((await runCli('replay', recording(lines(1)))).status).toBe(1);
  });
});
