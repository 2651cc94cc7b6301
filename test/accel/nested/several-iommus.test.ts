import { fc, test } from '@fast-check/vitest';
import { describe, expect } from 'vitest';
import { errno } from '../../../src/host/errno.ts';
import { READ_WRITE } from '../../../src/memory/access.ts';
import { get } from '../../../src/target/fields.ts';
import { EVENT, RECORD } from '../../../src/target/smmuv3/spec/events.ts';
import { iotlbDomain, iotlbGlobal } from '../../target/vtd/guest.ts';
import { SYNC, tlbiAll, tlbiAsid } from './smmuv3-commands.ts';
import { BASE, DATA, PAGES, STREAMS } from './smmuv3-machine.ts';
import * as smmuv3 from './smmuv3-program.ts';
import { DEVICES, VtdMachine } from './vtd-machine.ts';
import * as vtd from './vtd-program.ts';

/*
 * One guest whose devices stand behind two host IOMMUs, neither of which takes the other's page tables: it sees one IOMMU, and what it tells that both
 * have to hear. The first device is behind the first one, the second behind the second.
 */

const [FIRST, SECOND] = STREAMS;
const { ABORT, ASIDS, BYPASS, STAGE_1 } = smmuv3;

/** A guest and its machine, whichever IOMMU they have. */
interface Subject<Step> {
  readonly steps: fc.Arbitrary<Step[]>;
  make(): {
    run(step: Step): void;
    agrees(): void;
    readonly machine: vtd.Program['vtd'] | smmuv3.Program['smmu'];
  };
  /** The guest wants everything to be forgotten, and says anew where its devices are. */
  again(guest: ReturnType<Subject<Step>['make']>): void;
}

function smmuSubject(path: 'nested' | 'nested-queue'): Subject<smmuv3.Step> {
  return {
    steps: smmuv3.program,
    make: () => new SmmuGuest(path),
    again: (guest) => {
      const { smmu } = guest as SmmuGuest;
      smmu.guest.command(tlbiAll, SYNC);
      for (const stream of STREAMS) {
        smmu.setStream(stream, ABORT);
        smmu.setStream(stream, STAGE_1);
      }
    },
  };
}

class SmmuGuest extends smmuv3.Program {
  constructor(path: 'nested' | 'nested-queue' = 'nested') {
    super(path, 2);
  }
  get machine(): smmuv3.Program['smmu'] {
    return this.smmu;
  }
}

class VtdGuest extends vtd.Program {
  constructor() {
    super(new VtdMachine({ iommus: 2 }));
  }
  get machine(): vtd.Program['vtd'] {
    return this.vtd;
  }
}

const vtdSubject: Subject<vtd.Step> = {
  steps: vtd.program,
  make: () => new VtdGuest(),
  again: (guest) => {
    (guest as VtdGuest).vtd.submit(iotlbGlobal);
    for (const device of DEVICES) (guest as VtdGuest).entry(device, 0);
  },
};

function suite<Step>(name: string, { steps, make, again }: Subject<Step>): void {
  describe(name, () => {
    test.prop([steps], { numRuns: 5 })(
      'random guests: hardware that forgets nothing by itself agrees after every completion; RAM is mapped once, and no device is detached',
      (program) => {
        const guest = make();
        const { machine } = guest;
        expect(machine.machine.counters().every(({ path }) => path.startsWith('nested'))).toBe(true);
        // A ring is a page of its own.
        const rings = machine.machine.counters()[0].path === 'nested-queue' ? 2 : 0;
        expect(machine.calls()['IOMMU_IOAS_MAP']).toBe(1 + rings);
        for (const step of program) {
          machine.touch();
          machine.calls();
          guest.run(step);
          const calls = machine.calls();
          expect([calls['IOMMU_IOAS_MAP'], calls['IOMMU_IOAS_UNMAP'], calls['VFIO_DEVICE_DETACH_IOMMUFD_PT']]).toEqual(
            new Array(3).fill(undefined),
          );
          guest.agrees();
        }
        machine.machine.close();
        machine.host.close();
        expect(machine.kernel.live()).toMatchObject({ descriptors: 0, domains: 0, pinnedBytes: 0 });
      },
    );

    test.prop(
      [steps, fc.integer({ min: 1, max: 12 }), fc.integer({ min: 1, max: 4 }), fc.constantFrom(errno.EIO, errno.ENOMEM, errno.EINVAL)],
      {
        numRuns: 8,
      },
    )('host calls fail: nothing stale is reached, and the rest is mended by what the guest does next', (program, nth, count, code) => {
      const guest = make();
      const { machine } = guest;
      for (let i = 0; i < count; i++) machine.kernel.hooks.fail({ nth: nth + i, errno: code });
      for (const step of program) {
        machine.touch();
        guest.run(step);
        for (const index of [0, 1]) {
          const meant = machine.software(index);
          machine.hardware(index).forEach((found, i) => void (found !== null && expect(found).toBe(meant[i])));
        }
      }
      machine.kernel.hooks.reset();
      again(guest);
      machine.hostDevices.forEach(({ closed }, index) => {
        const software = machine.software(index);
        expect(machine.hardware(index)).toEqual(closed ? software.map(() => null) : software);
      });
    });
  });
}

suite('two VT-d', vtdSubject);
suite('two SMMUv3', smmuSubject('nested'));
suite('two SMMUv3 with a command queue each', smmuSubject('nested-queue'));

describe('calls', () => {
  test('VT-d: a domain of devices behind both is one stage on each, and an invalidation a call for each', () => {
    const guest = new VtdGuest();
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
      const { smmu } = new SmmuGuest(path);
      expect(smmu.machine.state.endpoints[SECOND].path).toBe(path);
      smmu.calls();
      smmu.guest.command(tlbiAsid(ASIDS[0]), SYNC);
      expect(smmu.calls()).toEqual(calls);
    }
  });

  test('SMMUv3: what concerns a stream goes to its own IOMMU only', () => {
    const { smmu, tables } = new SmmuGuest();
    smmu.calls();
    smmu.setContext(SECOND, tables[0], ASIDS[0]);
    expect(smmu.calls()).toEqual({ IOMMU_HWPT_INVALIDATE: 1 });
  });
});

test('abort and bypass are for each IOMMU, and no moment is without', () => {
  const guest = new SmmuGuest();
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
  const { smmu } = new SmmuGuest();
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
  const guest = new SmmuGuest();
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
