import { test } from '@fast-check/vitest';
import { describe, expect } from 'vitest';
import { nested } from '../../src/accel/nested/nested.ts';
import { inputPages } from '../../src/accel/user-owned/stage-format.ts';
import { userOwned } from '../../src/accel/user-owned/user-owned.ts';
import { errno } from '../../src/host/errno.ts';
import type { NestingHardware } from '../../src/host/host.ts';
import { openHost } from '../../src/host/registry.ts';
import { amd, simKernel, smmuv3, vtd } from '../../src/host/sim/index.ts';
import { READ } from '../../src/memory/access.ts';
import { GuestMemory } from '../../src/memory/guest-memory.ts';
import type { AddressSpace } from '../../src/target/target.ts';
import { reaching } from '../reaching.ts';
import { Fixture, program, REQUESTER, type Step } from './path-fixture.ts';
import { subjects } from './subjects.ts';
import { TOY_PAGES, ToySpace } from './toy-space.ts';

const { places } = subjects['user-owned'];

class Guest extends Fixture {
  constructor(place: string, owner: 'target' | 'guest' = 'target') {
    super(userOwned, { owner, ...places[place].make() });
  }

  /** Map and unmap calls, and all others. */
  count(steps: readonly Step[]): readonly [number, number] {
    const before = { ...this.host.calls };
    expect(this.run(steps)).toBe(0);
    const { map, unmap, copy, control, attach } = this.host.calls;
    return [map + unmap + copy - before.map - before.unmap - before.copy, control + attach - before.control - before.attach];
  }
}

for (const hardware of Object.keys(places)) {
  describe(`path user-owned, ${hardware}`, () => {
    const counted = reaching(`user-owned, ${hardware}: calls`, 'an operation that tells the hardware', 'an operation of several steps');
    const step = { from: 0, count: 4, gpa: 0, permission: 3 } as const;
    const example = [
      [step],
      [
        { ...step, permission: 0 as const },
        { ...step, from: 8 },
      ],
    ];
    test.prop([program], { numRuns: 8, examples: [[example]] })('an operation is no map call and one other at most', (operations) => {
      counted();
      const guest = new Guest(hardware);
      for (const steps of operations) {
        guest.touch();
        const [mapping, other] = guest.count(steps);
        expect(mapping).toBe(0);
        expect(other).toBeLessThanOrEqual(1);
        if (other === 1) counted('an operation that tells the hardware');
        if (steps.length > 1) counted('an operation of several steps');
      }
    });

    test('an invalidation that is left out shows: the hardware still has what was unmapped', () => {
      const guest = new Guest(hardware);
      guest.run([{ from: 0, count: 4, gpa: 0, permission: 3 }]);
      guest.touch();
      // Twice: the SMMUv3 driver gives again what a failed call counts as done.
      for (const nth of [1, 2]) guest.kernel.hooks.fail({ kind: 'IOMMU_HWPT_INVALIDATE', nth, errno: errno.EIO });
      expect(guest.run([{ from: 0, count: 4, gpa: 0, permission: 0 }])).toBe(-errno.EIO);
      guest.kernel.hooks.reset();
      expect(() => guest.agrees()).toThrow();
      expect(guest.path.flush()).toBe(0);
      guest.agrees();
    });

    test('what can never be mapped is no reason to go on by itself, and keeps nothing else from being mapped', () => {
      const guest = new Guest(hardware, 'guest');
      const [device] = guest.hostDevices;
      const stage = guest.host.nesting!.hardwareOf(device) as NestingHardware;
      // Half of it lies beyond what the first stage covers.
      const space = new ToySpace('guest', inputPages(stage) - TOY_PAGES / 2);
      space.reach = 8;
      for (let i = 0; i < TOY_PAGES; i++) space.set(i, 1, TOY_PAGES - 1 - i, 3);
      const path = guest.another(space);
      expect(guest.path.detach(device)).toBe(0);
      expect(path.attach(device, REQUESTER)).toBe(0);
      let flushes = 0;
      for (; path.unfinished && flushes < 100; flushes++) path.flush();
      expect(flushes).toBeLessThanOrEqual(2 * (TOY_PAGES / space.reach));
      const mapped = space.pages.map((_, i) => guest.devices[0].hostPfn(space.base + i, READ) >= 0);
      expect(mapped).toEqual(space.pages.map((_, i) => i < TOY_PAGES / 2));
      path.changed(space.base, space.base);
      path.flush();
      expect(space.pages.map((_, i) => guest.devices[0].hostPfn(space.base + i, READ) >= 0)).toEqual(mapped);
    });

    test('RAM is mapped once for all spaces, and the last path frees everything', () => {
      const guest = new Guest(hardware);
      const maps = guest.host.calls.map;
      const space = new ToySpace('target', 0x9000);
      const context = { space, memory: guest.memory, host: guest.host, device: guest.hostDevices[0] };
      const second = userOwned.create(context);
      expect(second.attach(guest.hostDevices[0], REQUESTER)).toBe(0);
      guest.path.moved(guest.hostDevices[0]);
      expect(guest.host.calls.map).toBe(maps);
      expect(second.detach(guest.hostDevices[0])).toBe(0);
      expect(guest.path.detach(guest.hostDevices[1])).toBe(0);
      second.close();
      guest.path.close();
      expect([second.error, guest.path.error]).toEqual([null, null]);
      const { mappings, ...live } = guest.kernel.live();
      expect(Object.entries(live).filter(([kind, count]) => /hwpt|ioas|viommu|vdevice/i.test(kind) && count > 0)).toEqual([]);
    });
  });
}

test('a window wider than the first stage is refused when the target makes it, and the old state stands', () => {
  const guest = new Guest('iommufd, VT-d');
  guest.run([{ from: 0, count: 4, gpa: 0, permission: 3 }]);
  const { apertures } = guest.space;
  const wide = { first: 2 ** 47, last: 2 ** 47 + 15 };
  Object.assign(guest.space, { apertures: [...apertures, wide] });
  guest.path.changed(wide.first, wide.last);
  expect(guest.path.flush()).toBe(-errno.ERANGE);
  expect(guest.path.error?.message).toContain('first stage');
  Object.assign(guest.space, { apertures });
  guest.path.changed(wide.first, wide.last);
  expect(guest.path.flush()).toBe(0);
  guest.agrees();
});

test.each(['iommufd, VT-d', 'iommufd, SMMUv3'])('%s: a space of one run is populated in slices of 2^18 table entries', (place) => {
  const pages = 3 * 2 ** 17;
  const { nesting } = places[place].make();
  const kernel = simKernel({ iommus: [{ nesting: nesting! }], devices: [{ name: 'vfio0' }] });
  const ram = kernel.allocate(pages * 4096);
  const memory = new GuestMemory([{ gpa: 0n, buffer: ram.buffer, hostAddress: ram.address }]);
  const host = openHost('iommufd', kernel);
  const device = host.openDevice(kernel.device().path);
  // Nothing of it is aligned to a large page: an entry a page.
  const space: AddressSpace = {
    name: 'one run',
    owner: 'target',
    announced: true,
    granuleLg2: 12,
    apertures: [{ first: 1, last: pages - 1 }],
    enumerate(first, last, visit) {
      visit(first, first - 1, last - first + 1, 3);
      return last + 1;
    },
  };
  const path = userOwned.create({ space, memory, host, device });
  const isReached = (page: number) => kernel.device().hostPfn(page, READ) >= 0;
  expect(path.attach(device, REQUESTER)).toBe(0);
  let stored = 0;
  for (let next = 1; next < pages; next += stored) {
    // A process's first slices are smaller by powers of two.
    stored = [3, 2, 1, 0].map((lg2) => 2 ** (18 - lg2)).find((size) => next + size > pages || !isReached(next + size)) ?? 0;
    const end = Math.min(next + stored, pages);
    expect([isReached(next), isReached(end - 1), path.unfinished]).toEqual([true, true, end < pages]);
    if (path.unfinished) expect(path.flush()).toBe(0);
  }
  path.close();
});

describe('path user-owned, where the host fails', () => {
  const failing = (guest: Guest) => {
    // Twice: the SMMUv3 driver gives again what a failed call counts as done.
    for (const nth of [1, 2]) guest.kernel.hooks.fail({ kind: 'IOMMU_HWPT_INVALIDATE', nth, errno: errno.EIO });
  };

  test.each(['iommufd, VT-d', 'iommufd, SMMUv3'])(
    '%s: a device that comes while the hardware has stale entries waits for the next flush',
    (place) => {
      const guest = new Guest(place, 'guest');
      const [first, second] = guest.hostDevices;
      guest.run([{ from: 0, count: 4, gpa: 0, permission: 3 }]);
      guest.touch();
      expect(guest.path.detach(second)).toBe(0);
      failing(guest);
      expect(guest.run([{ from: 0, count: 2, gpa: 0, permission: 0 }])).toBe(-errno.EIO);
      guest.kernel.hooks.reset();
      expect(guest.path.attach(second, guest.requester(1))).toBe(0);
      expect([guest.blocked, first.attachment, second.attachment]).toEqual([[true, true], null, null]);
      expect([guest.path.pending, guest.path.flush()]).toEqual([true, 0]);
      guest.agrees();
      expect(guest.path.pending).toBe(false);
    },
  );

  test('a stage that the kernel does not destroy is the error of the path that is closed', () => {
    const guest = new Guest('iommufd, VT-d');
    for (const device of guest.hostDevices) expect(guest.path.detach(device)).toBe(0);
    guest.kernel.hooks.fail({ kind: 'IOMMU_DESTROY', nth: 1, errno: errno.EBUSY });
    guest.path.close();
    expect([guest.path.error?.operation, guest.path.error?.errno]).toEqual(['IOMMU_DESTROY', errno.EBUSY]);
  });

  test('more spaces than the hardware has ASIDs: the one that is too many is refused by name, until another is closed', () => {
    const kernel = simKernel({
      iommus: [{ nesting: smmuv3({ idr: [0x0000_0aca | 3, (19 << 21) | (20 << 6) | 16, 0, 1 << 10, 0, 0x55] }) }],
    });
    const ram = kernel.allocate(64 * 4096);
    const memory = new GuestMemory([{ gpa: 0n, buffer: ram.buffer, hostAddress: ram.address }]);
    const host = openHost('iommufd', kernel);
    const device = host.openDevice(kernel.device().path);
    const another = () => userOwned.create({ space: new ToySpace('target'), memory, host, device });
    const paths = Array.from({ length: 255 }, another);
    expect(another).toThrow(/no more than 255 ASIDs/);
    paths.pop()!.close();
    const again = another();
    paths.push(again);
    // What had the ASID before is forgotten first, or the device does not come.
    for (const nth of [1, 2]) kernel.hooks.fail({ kind: 'IOMMU_HWPT_INVALIDATE', nth, errno: errno.EIO });
    expect([again.attach(device, REQUESTER), again.error?.errno, device.attachment === null]).toEqual([-errno.EIO, errno.EIO, true]);
    kernel.hooks.reset();
    expect([again.attach(device, REQUESTER), again.detach(device)]).toEqual([0, 0]);
    for (const path of paths) path.close();
    host.close();
    expect(kernel.live()).toMatchObject({ descriptors: 0, pinnedBytes: 0 });
  });
});

// VT-d 3.14: a write to FEEx_xxxxh is an interrupt, whatever the tables say.
test.each([['target' as const], ['guest' as const]])(
  'a mapping in the interrupt range, %s-owned: refused by name, but for a guest’s own tables, which may hold anything',
  (owner) => {
    const kernel = simKernel({ iommus: [{ nesting: vtd() }], devices: [{ name: 'vfio0' }] });
    const ram = kernel.allocate(1 << 20);
    const memory = new GuestMemory([{ gpa: 0n, buffer: ram.buffer, hostAddress: ram.address }]);
    const host = openHost('iommufd', kernel);
    const space = new ToySpace(owner, 0xfede0);
    const path = userOwned.create({ space, memory, host, device: host.openDevice(kernel.device().path) });
    space.set(0, 1, 5, 3);
    path.changed(0xfede0, 0xfede0);
    expect(path.flush()).toBe(0);
    space.set(0x1f, 3, 8, 3);
    path.changed(0xfedff, 0xfee01);
    expect(path.flush()).toBe(owner === 'guest' ? 0 : -errno.ERANGE);
    if (owner === 'target') expect(path.error?.message).toMatch(/0xfee00000.*0xfee01fff.*interrupts/);
    path.close();
  },
);

describe('path user-owned is refused', () => {
  const context = (nesting: ReturnType<typeof vtd> | null) => {
    const kernel = simKernel({ iommus: [{ nesting }], devices: [{ name: 'vfio0' }] });
    const host = openHost('iommufd', kernel);
    return { space: new ToySpace('guest'), memory: GuestMemory.ofBytes(4096), host, device: host.openDevice(kernel.device().path) };
  };

  test.each([
    [
      'an endpoint without a host device',
      { space: new ToySpace('guest'), memory: GuestMemory.ofBytes(4096), host: null },
      /no host device/,
    ],
    ['hardware that nests nothing', context(null), /names no IOMMU/],
    ['AMD-Vi, whose kernel takes no invalidations', context(amd()), /stale/],
    ['VT-d without nesting', context(vtd({ ecap: 0n })), /ECAP.NEST/],
  ])('%s', (_, made, reason) => {
    expect(userOwned.refuse(made)).toMatch(reason);
  });

  test('VT-d with erratum 772415 as long as guest RAM has ROM, and not without; so is the nested path', () => {
    const made = context(vtd({ erratum772415: true }));
    expect(userOwned.refuse(made)).toBeNull();
    const rom = new GuestMemory([{ gpa: 0x10_0000n, buffer: new ArrayBuffer(4096), hostAddress: 0x7000_0000n, readOnly: true }]);
    const reason = /erratum 772415.*ROM at 0x100000/;
    expect(userOwned.refuse({ ...made, memory: rom })).toMatch(reason);
    const target = { name: 'vtd', stageFormat: 'vtd' } as const;
    expect(nested.refuse({ ...made, memory: rom, target, stage: { kind: 'abort' } })).toMatch(reason);
    expect(nested.refuse({ ...made, target, stage: { kind: 'abort' } })).toBeNull();
    expect(userOwned.refuse({ ...context(vtd()), memory: rom })).toBeNull();
  });
});
