import { describe, expect, test } from 'vitest';
import { READ_WRITE } from '../../../src/memory/access.ts';
import { get } from '../../../src/target/fields.ts';
import { EVENT, RECORD } from '../../../src/target/smmuv3/spec/events.ts';
import { iotlbDomain } from '../../target/vtd/guest.ts';
import { randomGuests } from './random-guests.ts';
import { SYNC, tlbiAll, tlbiAsid } from './smmuv3-commands.ts';
import { BASE, DATA, PAGES, STREAMS } from './smmuv3-machine.ts';
import * as smmuv3 from './smmuv3-program.ts';
import { VtdMachine } from './vtd-machine.ts';
import * as vtd from './vtd-program.ts';

/*
 * One guest whose devices stand behind two host IOMMUs, neither of which takes the other's page tables: it sees one IOMMU, and what it tells that both
 * have to hear. The first device is behind the first one, the second behind the second.
 */

const [FIRST, SECOND] = STREAMS;
const { ABORT, ASIDS, BYPASS, STAGE_1 } = smmuv3;

/** All is nested, and RAM mapped once for both; a ring is a page of its own. */
function behindBoth<Guest extends vtd.Program | smmuv3.Program>(guest: Guest, rings: number): Guest {
  const { machine } = guest;
  expect(machine.machine.counters().every(({ path }) => path.startsWith('nested'))).toBe(true);
  expect(machine.calls()['IOMMU_IOAS_MAP']).toBe(1 + rings);
  return guest;
}

const smmuGuest = (path: keyof typeof smmuv3.hardwares = 'nested') => new smmuv3.Program(path, 2);
const vtdGuest = () => new vtd.Program(new VtdMachine({ iommus: 2 }));
const runs = { runs: 5, failingRuns: 8 };

randomGuests('two VT-d', { steps: vtd.program, kinds: vtd.kinds, make: () => behindBoth(vtdGuest(), 0), ...runs });
for (const [name, path, rings] of [
  ['two SMMUv3', 'nested', 0],
  ['two SMMUv3 with a command queue each', 'nested-queue', 2],
] as const)
  randomGuests(name, { steps: smmuv3.program, kinds: smmuv3.kinds, make: () => behindBoth(smmuGuest(path), rings), ...runs });

describe('calls', () => {
  test('VT-d: a domain of devices behind both is one stage on each, and an invalidation a call for each', () => {
    const guest = vtdGuest();
    guest.tables[0].table.map(BASE, DATA, 4, READ_WRITE);
    guest.vtd.calls();
    guest.vtd.submit(iotlbDomain(guest.did(0)));
    expect(guest.vtd.calls()).toEqual({ IOMMU_HWPT_INVALIDATE: 2 });
    expect(guest.vtd.kernel.pinnedBytes, 'pinned once').toBe(2048 * 4096);
    guest.agrees();
  });

  test('SMMUv3: an invalidation is a call for each; with a queue for each none', () => {
    for (const [path, calls] of [
      ['nested', { IOMMU_HWPT_INVALIDATE: 2 }],
      ['nested-queue', {}],
    ] as const) {
      const { smmu } = smmuGuest(path);
      expect(smmu.machine.state.endpoints[SECOND].path).toBe(path);
      smmu.calls();
      smmu.guest.command(tlbiAsid(ASIDS[0]), SYNC);
      expect(smmu.calls()).toEqual(calls);
    }
  });

  test('SMMUv3: what concerns a stream goes to its own IOMMU only', () => {
    const { smmu, tables } = smmuGuest();
    smmu.calls();
    smmu.setContext(SECOND, tables[0], ASIDS[0]);
    expect(smmu.calls()).toEqual({ IOMMU_HWPT_INVALIDATE: 1 });
  });
});

test('abort and bypass are for each IOMMU, and no moment is without', () => {
  const guest = smmuGuest();
  const { smmu } = guest;
  const probes: (boolean | null)[] = [];
  const dispose = smmu.kernel.hooks.observe({
    after: () => {
      for (const { translation } of smmu.kernel.devices) probes.push(translation === null);
    },
  });
  for (const config of [ABORT, BYPASS, STAGE_1]) {
    for (const stream of STREAMS) smmu.setStream(stream, config);
    guest.agrees();
  }
  dispose();
  expect(probes).not.toContain(true);
});

test('faults of devices behind either are the guest’s own events, each with its stream', () => {
  const { smmu } = smmuGuest();
  smmu.guest.events();
  for (const device of smmu.kernel.devices) expect(device.dmaWrite(BigInt(BASE) << 12n, new Uint8Array(1))).toBeLessThan(0);
  smmu.machine.poll();
  const events = smmu.guest.events().map((record) => [get(record, RECORD.NUMBER), get(record, RECORD.STREAM)]);
  expect(events).toEqual([
    [EVENT.F_TRANSLATION, FIRST],
    [EVENT.F_TRANSLATION, SECOND],
  ]);
  expect(smmu.machine.eventDescriptors).toHaveLength(2);
});

test('a device that comes back to an IOMMU that heard nothing meanwhile meets nothing that it remembers', () => {
  const guest = smmuGuest();
  const { smmu, tables } = guest;
  tables[0].table.map(BASE, DATA, 4, READ_WRITE);
  smmu.touch();
  expect(smmu.hardware(1)[0]).not.toBeNull();
  // Its place on the vIOMMU is another parent's for a while.
  const other = smmu.host.nesting.createParent(smmu.hostDevices[1], smmu.host.nesting.hardwareOf(smmu.hostDevices[1]) as never);
  expect(other.name(smmu.hostDevices[1], 5)).toBe(0);
  tables[0].table.unmap(BASE, 4);
  smmu.guest.command(tlbiAll, SYNC);
  other.close();
  smmu.setStream(SECOND, ABORT);
  smmu.setStream(SECOND, STAGE_1);
  guest.agrees();
  expect(smmu.hardware(1)).toEqual(new Array(PAGES).fill(null));
});
