import { describe, expect, test } from 'vitest';
import { errno } from '../../../src/host/errno.ts';
import { amd, smmuv3, vtd } from '../../../src/host/sim/index.ts';
import { READ_WRITE } from '../../../src/memory/access.ts';
import { Cmd, iotlbGlobal, pasidPages, pasidSelective, Reg } from '../../target/vtd/guest.ts';
import { randomGuests } from './random-guests.ts';
import { BASE, DATA, DEVICES, PAGES, VtdMachine } from './vtd-machine.ts';
import { kinds, Program, program } from './vtd-program.ts';

/* The nested path of a VT-d guest in scalable mode: VT-d D51397-018 (5.10), 3.8, 6.5.2 and 9.6, before simulated VT-d. */

const [FIRST, SECOND] = DEVICES;

randomGuests('a stage of each device', {
  steps: program,
  kinds,
  make: () => new Program(),
  // Each device may have a stage of its own: the domain is theirs in common.
  cost: (calls) => expect(calls['IOMMU_HWPT_INVALIDATE'] ?? 0).toBeLessThanOrEqual(2),
  runs: 40,
  failingRuns: 30,
});

describe('one invalidation left out', () => {
  test('shows: the device reaches what was unmapped', () => {
    const guest = new Program();
    guest.run({ do: 'map', table: 0, page: 0, to: DATA, pages: 4, permission: READ_WRITE, name: 'pages' });
    guest.vtd.touch();
    guest.tables[0].table.unmap(BASE, 4);
    expect(() => guest.agrees()).toThrow();
    guest.vtd.submit(pasidPages(8, FIRST, BASE, 2), pasidPages(8, SECOND, BASE, 2));
    guest.agrees();
  });

  test('by the host: its device is kept at abort until the invalidation is done', () => {
    const guest = new Program();
    guest.run({ do: 'map', table: 0, page: 0, to: DATA, pages: 4, permission: READ_WRITE, name: 'pages' });
    guest.vtd.touch();
    guest.tables[0].table.unmap(BASE, 1);
    // Every flush tries again, so all of them fail.
    for (let nth = 1; nth <= 8; nth++) guest.vtd.kernel.hooks.fail({ kind: 'IOMMU_HWPT_INVALIDATE', nth, errno: errno.EIO });
    guest.vtd.submit(pasidPages(8, FIRST, BASE));
    expect(guest.vtd.hardware(0)).toEqual(new Array(PAGES).fill(null));
    guest.vtd.kernel.hooks.reset();
    guest.vtd.submit(pasidPages(8, SECOND, BASE));
    guest.agrees();
  });
});

describe('host calls', () => {
  test('1,000 queued invalidations are one call, made before the guest sees its wait descriptor complete', () => {
    const guest = new Program();
    guest.entry(SECOND, -2);
    const { vtd } = guest;
    // A queue of 2^5 pages has room for 4,096 descriptors; it lies behind all that is looked at.
    const queue = 1600;
    vtd.guest.global(Cmd.qie, false);
    vtd.guest.iommu.write(Reg.iqt, 8, 0n);
    vtd.guest.iommu.write(Reg.iqa, 8, (BigInt(queue) << 12n) | (1n << 11n) | 5n);
    vtd.guest.global(Cmd.qie);
    for (let i = 0; i < 1000; i++) {
      const [low, high] = pasidPages(8, FIRST, BASE + i);
      vtd.guest.store(queue * 4096 + i * 32, low, high, 0n, 0n);
    }
    const status = 5 * 4096;
    vtd.guest.store(status, 0n);
    vtd.guest.store(queue * 4096 + 32_000, 0x25n | (7n << 32n), BigInt(status), 0n, 0n);
    vtd.calls();
    const seen: bigint[] = [];
    const dispose = vtd.kernel.hooks.observe({ after: () => seen.push(vtd.guest.load(status)) });
    vtd.guest.iommu.write(Reg.iqt, 8, 32_032n);
    dispose();
    expect(vtd.calls()).toEqual({ IOMMU_HWPT_INVALIDATE: 1 });
    expect(seen).toEqual([0n]);
    expect(vtd.guest.load(status)).toBe(7n);
  });

  test('a map is none, a change of table one HWPT_ALLOC, one attach that replaces, one destruction; the same entry again none', () => {
    const guest = new Program();
    guest.entry(SECOND, -2);
    const { vtd } = guest;
    vtd.calls();
    guest.tables[0].table.map(BASE, DATA, 512, READ_WRITE);
    expect(vtd.hardware(0)).toEqual(vtd.software(0));
    expect(vtd.calls()).toEqual({});
    guest.entry(FIRST, 1);
    expect(vtd.calls()).toEqual({ IOMMU_HWPT_ALLOC: 1, VFIO_DEVICE_ATTACH_IOMMUFD_PT: 1, IOMMU_DESTROY: 1 });
    guest.entry(FIRST, 1);
    expect(vtd.calls()).toEqual({});
  });

  test('guest RAM is mapped once, for any number of devices and domains', () => {
    for (const devices of [1, 4, 16]) {
      const vtd = new VtdMachine({ devices });
      for (const [i, device] of vtd.devices.entries()) vtd.setStage(device, { root: vtd.newStage().root, did: 8 + i });
      vtd.guest.start();
      expect(vtd.calls()['IOMMU_IOAS_MAP']).toBe(1);
      expect(vtd.kernel.pinnedBytes).toBe(2048 * 4096);
      expect(vtd.machine.counters().map(({ path }) => path)).toEqual(new Array(devices).fill('nested'));
    }
  });
});

test('no moment without: between any two host calls a device reaches what it reached, or what it will', () => {
  const guest = new Program();
  guest.tables[0].table.map(BASE, DATA, 4, READ_WRITE);
  guest.tables[1].table.map(BASE, DATA + 100, 4, READ_WRITE);
  guest.vtd.submit(iotlbGlobal);
  const changes: readonly (readonly [number, number])[] = [
    [0, 1],
    [1, -1],
    [-1, 0],
    [0, -2],
    [-2, 1],
  ];
  for (const [from, to] of changes) {
    guest.entry(FIRST, from);
    const before = guest.vtd.hardware(0);
    const probes: (string | null)[][] = [];
    const dispose = guest.vtd.kernel.hooks.observe({
      after: () => {
        probes.push(guest.vtd.hardware(0));
        // The kernel's own blocked state is attached to nothing: that is never seen.
        expect(guest.vtd.sim(0).translation).not.toBeNull();
      },
    });
    guest.entry(FIRST, to);
    dispose();
    const after = guest.vtd.hardware(0);
    expect(after).toEqual(guest.vtd.software(0));
    for (const probe of probes) expect([before, after]).toContainEqual(probe);
  }
});

test('what hardware cannot take as a first stage takes another path, and comes back', () => {
  const guest = new Program(new VtdMachine());
  const { vtd } = guest;
  const { root, table } = vtd.guest.secondStage();
  table.map(BASE, DATA, 4, READ_WRITE);
  vtd.guest.setPasid(FIRST, { pgtt: 2, did: 20, second: root });
  vtd.submit(pasidSelective(0, FIRST), iotlbGlobal);
  expect(vtd.machine.state.endpoints[FIRST]?.path).not.toMatch(/nested/);
  guest.entry(FIRST, 0);
  expect(vtd.machine.state.endpoints[FIRST]?.path).toBe('nested');
  guest.agrees();
});

describe('refused', () => {
  test.each([
    ['other hardware', () => smmuv3(), /vtd's, the hardware walks smmuv3's/],
    ['AMD-Vi, whose kernel takes no invalidations', () => amd(), /stale/],
    ['VT-d without nesting', () => vtd({ ecap: 0n }), /ECAP.NEST/],
  ])('%s', (_, nesting, reason) => {
    const machine = new VtdMachine({ nesting });
    const { refused } = machine.machine.state.endpoints[FIRST]!;
    expect(refused.find(({ path }) => path === 'nested')?.reason).toMatch(reason);
  });

  test('a table of five levels that the hardware cannot walk, by name', () => {
    const guest = new Program(new VtdMachine({ nesting: () => vtd({ cap: 0n }) }));
    const { root } = guest.vtd.guest.firstStage(5);
    // FSPM 01: five levels (9.6).
    guest.vtd.setStage(FIRST, { root, flags: 4n });
    const endpoint = guest.vtd.machine.state.endpoints[FIRST]!;
    expect(JSON.stringify(endpoint)).toMatch(/FS5LP/);
    expect(guest.vtd.hardware(0)).toEqual(new Array(PAGES).fill(null));
  });
});
