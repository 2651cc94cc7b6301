import { fc, test } from '@fast-check/vitest';
import { beforeEach, describe, expect, vi } from 'vitest';
import { shadow } from '../../src/accel/shadow.ts';
import { errno } from '../../src/host/errno.ts';
import { IommufdSpace } from '../../src/host/iommufd/space.ts';
import { hostKinds } from '../../src/host/registry.ts';
import { reaching } from '../reaching.ts';
import { Fixture, REGION_PAGES, type Step } from './path-fixture.ts';
import { TOY_PAGES } from './toy-space.ts';

/* What the shadow path does beside what every path does (suite.ts): splits, hosts with few mappings, host calls; large spaces are in shadow-large.test.ts. */

/** The next unmap of more than one page takes the first page away and fails. */
function halfWay(): void {
  const { unmap } = IommufdSpace.prototype;
  const spy = vi.spyOn(IommufdSpace.prototype, 'unmap').mockImplementation(function (this: IommufdSpace, iova: number, pages: number) {
    if (pages === 1) return unmap.call(this, iova, 1);
    spy.mockRestore();
    return unmap.call(this, iova, 1) || -errno.EBUSY;
  });
}

describe.each(hostKinds())('path shadow over %s', (host) => {
  test('a map that fails during a split takes no neighbour away for good', () => {
    const fixture = new Fixture(shadow, { owner: 'target', host });
    fixture.run([{ from: 0, count: 3, gpa: 0, permission: 3 }]);
    const before = fixture.space.pages;
    const call = host === 'iommufd' ? 'IOMMU_IOAS_COPY' : 'VFIO_IOMMU_MAP_DMA';
    fixture.kernel.hooks.fail({ kind: call, nth: 1, errno: errno.ENOMEM });
    fixture.kernel.hooks.fail({ kind: 'IOMMU_IOAS_MAP', nth: 1, errno: errno.ENOMEM });
    expect(fixture.run([{ from: 1, count: 1, gpa: 0, permission: 0 }])).toBe(-errno.ENOMEM);
    fixture.space.pages = before;
    fixture.path.changed(fixture.space.base + 1, fixture.space.base + 1);
    expect(fixture.path.flush()).toBe(0);
    fixture.agrees();
  });
});

describe('over vfio-type1 with room for few mappings', () => {
  test('a map that leaves no mapping for a split is refused, so that the unmap is not', () => {
    const fixture = new Fixture(shadow, { owner: 'target', host: 'vfio-type1', dmaEntryLimit: 2 });
    expect(fixture.run([{ from: 0, count: 3, gpa: 0, permission: 3 }])).toBe(0);
    const before = fixture.space.pages;
    expect(fixture.run([{ from: 16, count: 1, gpa: 0, permission: 3 }])).toBe(-errno.ENOSPC);
    expect(fixture.path.error?.message).toContain('the host holds 2 mappings');
    fixture.space.pages = before;
    fixture.path.changed(fixture.space.base + 16, fixture.space.base + 16);
    expect(fixture.path.flush()).toBe(0);
    expect(fixture.run([{ from: 1, count: 1, gpa: 0, permission: 0 }])).toBe(0);
    fixture.agrees();
  });

  test('single pages fill it to the last mapping', () => {
    const fixture = new Fixture(shadow, { owner: 'target', host: 'vfio-type1', dmaEntryLimit: 2 });
    for (const from of [0, 16]) expect(fixture.run([{ from, count: 1, gpa: 0, permission: 3 }])).toBe(0);
    fixture.agrees();
  });

  test('an unmap succeeds when the reserve is used up, and what lost its mapping has one again when there is room', () => {
    const fixture = new Fixture(shadow, { owner: 'target', host: 'vfio-type1', dmaEntryLimit: 2 });
    fixture.run([{ from: 0, count: 5, gpa: 0, permission: 3 }]);
    expect(fixture.run([{ from: 1, count: 1, gpa: 0, permission: 0 }])).toBe(0);
    expect(fixture.run([{ from: 3, count: 1, gpa: 0, permission: 0 }])).toBe(0);
    fixture.hasNothingStale();
    expect(fixture.path.pending).toBe(true);
    expect(fixture.run([{ from: 0, count: 1, gpa: 0, permission: 0 }])).toBe(0);
    fixture.agrees();
    expect(fixture.path.pending).toBe(false);
  });
});

describe('a host whose mappings run short', () => {
  const room = 6;
  const op = fc.record({ from: fc.nat(15), count: fc.integer({ min: 1, max: 5 }), permission: fc.constantFrom(0, 3) });

  const reached = reaching('a host whose mappings run short', 'a map that is refused', 'a map that fits', 'an unmap of mapped pages');
  const single = (from: number, permission: 0 | 3) => ({ from, count: 1, permission });
  // Every other page, one more than there is room for; then what is unmapped has its page beside it.
  const short = [
    ...Array.from({ length: room + 1 }, (_, i) => single(2 * i, 3)),
    { from: 1, count: 3, permission: 3 as const },
    single(2, 0),
  ];
  test.prop([fc.array(op, { minLength: 1, maxLength: 30 })], { numRuns: 60, examples: [[short]] })(
    'an unmap never fails; what the guest may have page by page it is never refused; and what fits is mapped',
    (operations) => {
      reached();
      const fixture = new Fixture(shadow, { owner: 'target', host: 'vfio-type1', dmaEntryLimit: room });
      for (const { from, count, permission } of operations) {
        const before = fixture.space.pages;
        const answer = fixture.run([{ from, count, gpa: 0, permission }]);
        if (permission === 0) expect(answer).toBe(0);
        reached(answer < 0 ? 'a map that is refused' : permission !== 0 ? 'a map that fits' : 'an unmap of mapped pages');
        if (answer < 0) {
          expect(answer).toBe(-errno.ENOSPC);
          expect(fixture.space.pages.filter((page) => page !== null).length).toBeGreaterThan(room);
          expect(fixture.takeBack(before)).toBe(0);
        }
        const meant = fixture.meant();
        const runs = meant.filter((page, i) => page !== null && (i === 0 || meant[i - 1] === null)).length;
        if (runs <= room) fixture.agrees();
      }
    },
  );

  test('three coalesced maps and another: the unmap of the middle takes nothing else away', () => {
    const fixture = new Fixture(shadow, { owner: 'target', host: 'vfio-type1', dmaEntryLimit: 3 });
    fixture.run([0, 1, 2].map((from) => ({ from, count: 1, gpa: 0, permission: 3 })));
    expect(fixture.run([{ from: 16, count: 1, gpa: 0, permission: 3 }])).toBe(0);
    expect(fixture.run([{ from: 1, count: 1, gpa: 0, permission: 0 }])).toBe(0);
    fixture.agrees();
    expect(fixture.path.pending).toBe(false);
  });

  test('neighbours that came one by one become one when another map needs room', () => {
    const fixture = new Fixture(shadow, { owner: 'target', host: 'vfio-type1', dmaEntryLimit: 4 });
    for (let from = 0; from < 4; from++) fixture.run([{ from, count: 1, gpa: 0, permission: 3 }]);
    expect(fixture.path.counters.merges).toBe(0);
    expect(fixture.run([{ from: 16, count: 1, gpa: 0, permission: 3 }])).toBe(0);
    expect(fixture.path.counters.merges).toBe(1);
    fixture.agrees();
  });

  test.each(['VFIO_IOMMU_MAP_DMA', 'VFIO_IOMMU_UNMAP_DMA'])(
    'a %s that fails while neighbours become one takes none away for good',
    (call) => {
      const fixture = new Fixture(shadow, { owner: 'target', host: 'vfio-type1', dmaEntryLimit: 4 });
      for (let from = 0; from < 4; from++) fixture.run([{ from, count: 1, gpa: 0, permission: 3 }]);
      const before = fixture.space.pages;
      for (let nth = 1; nth <= 3; nth++) fixture.kernel.hooks.fail({ kind: call, nth, errno: errno.ENOMEM });
      expect(fixture.run([{ from: 16, count: 1, gpa: 0, permission: 3 }])).toBe(-errno.ENOSPC);
      fixture.kernel.hooks.reset();
      fixture.space.pages = before;
      fixture.path.changed(fixture.space.base + 16, fixture.space.base + 16);
      expect(fixture.path.flush()).toBe(0);
      fixture.agrees();
      expect(fixture.path.pending).toBe(false);
    },
  );
});

test('what the host refuses for ever is tried by flushes that have another reason: none goes on for it alone', () => {
  const fixture = new Fixture(shadow, { owner: 'guest' });
  fixture.space.reach = 8;
  fixture.kernel.hooks.fail({ kind: 'IOMMU_IOAS_MAP', nth: 1, times: Number.POSITIVE_INFINITY, errno: errno.EINVAL });
  // Each page a mapping of its own.
  fixture.run(Array.from({ length: TOY_PAGES }, (_, from) => ({ from, count: 1, gpa: TOY_PAGES - 1 - 2 * from, permission: 3 })));
  let flushes = 0;
  for (; fixture.path.unfinished && flushes < 100; flushes++) fixture.path.flush();
  expect(flushes).toBeLessThanOrEqual(2 * (TOY_PAGES / 8));
  fixture.kernel.hooks.reset();
  do fixture.path.flush();
  while (fixture.path.unfinished);
  fixture.agrees();
});

describe('host calls', () => {
  let fixture: Fixture;
  beforeEach(() => {
    fixture = new Fixture(shadow, { owner: 'target' });
  });
  const calls = (steps: readonly Step[]): number => {
    const before = fixture.mapCalls();
    expect(fixture.run(steps)).toBe(0);
    return fixture.mapCalls() - before;
  };
  const page = (from: number, permission = 3): Step => ({ from, count: 1, gpa: 0, permission });

  test('contiguous pages are one call, what is there already none, what goes together goes in one', () => {
    const all = { from: 0, count: 64, gpa: 0, permission: 3 };
    expect(calls([all])).toBe(1);
    expect(calls([all])).toBe(0);
    expect(calls([{ ...all, permission: 0 }])).toBe(1);
    expect(calls([{ ...all, permission: 0 }])).toBe(0);
  });

  test('pages of one operation are one call, of several operations one each; one unmap covers them all', () => {
    expect(calls(Array.from({ length: 64 }, (_, i) => page(i)))).toBe(1);
    expect(calls([{ from: 0, count: 64, gpa: 0, permission: 0 }])).toBe(1);
    for (let i = 0; i < 8; i++) expect(calls([page(i)])).toBe(1);
    expect(calls([{ from: 0, count: 64, gpa: 0, permission: 0 }])).toBe(1);
  });

  test('after the first split, mappings grow no larger than what the guest unmaps', () => {
    calls([{ from: 0, count: 64, gpa: 0, permission: 3 }]);
    calls([{ from: 16, count: 8, gpa: 0, permission: 0 }]);
    expect(fixture.path.counters).toMatchObject({ splits: 0, splitsWithoutGap: 1 });
    calls([{ from: 0, count: 64, gpa: 0, permission: 0 }]);
    expect(calls([{ from: 0, count: 64, gpa: 0, permission: 3 }])).toBe(8);
    expect(calls([{ from: 16, count: 8, gpa: 0, permission: 0 }])).toBe(1);
    expect(fixture.path.counters.splitsWithoutGap).toBe(1);
  });

  test('a run is cut where host memory is not contiguous', () => {
    expect(calls([{ from: 0, count: 64, gpa: REGION_PAGES - 32, permission: 3 }])).toBe(2);
  });
});

describe('a stale mapping that the host does not let go', () => {
  const map = (from: number, count: number): Step => ({ from, count, gpa: 0, permission: 3 });
  const unmap = (from: number, count: number): Step => ({ from, count, gpa: 0, permission: 0 });
  let fixture: Fixture;
  beforeEach(() => {
    fixture = new Fixture(shadow, { owner: 'guest' });
    fixture.run([map(0, 4)]);
    fixture.run([map(10, 8)]);
    fixture.kernel.hooks.fail({ kind: 'IOMMU_IOAS_UNMAP', nth: 1, errno: errno.EIO });
    expect(fixture.run([unmap(0, 4)])).toBe(-errno.EIO);
  });

  test('blocks every device, and a split elsewhere does not let one in', () => {
    expect(fixture.blocked).toEqual([true, true]);
    // It is tried again by every flush; this one fails as well.
    fixture.kernel.hooks.fail({ kind: 'IOMMU_IOAS_UNMAP', nth: 2, errno: errno.EIO });
    fixture.run([unmap(12, 1)]);
    expect(fixture.blocked).toEqual([true, true]);
    fixture.run([]);
    fixture.agrees();
  });

  test('blocks them too while another change needs more than one look', () => {
    fixture.space.reach = 4;
    fixture.run([map(20, 12)]);
    expect(fixture.path.unfinished).toBe(true);
    expect(fixture.blocked).toEqual([true, true]);
    while (fixture.path.unfinished) fixture.path.flush();
    fixture.agrees();
  });

  test('lets the devices in again one by one, whichever attach fails', () => {
    fixture.kernel.hooks.fail({ kind: 'VFIO_DEVICE_ATTACH_IOMMUFD_PT', nth: 2, errno: errno.ENOMEM });
    fixture.run([]);
    expect(fixture.hardware(fixture.devices[0])).toEqual(fixture.meant());
    expect(fixture.blocked).toEqual([false, true]);
    expect(fixture.path.detach(fixture.hostDevices[0])).toBe(0);
    expect(fixture.blocked).toEqual([true, true]);
    fixture.run([]);
    expect(fixture.hardware(fixture.devices[1])).toEqual(fixture.meant());
  });

  test('keeps a device that comes meanwhile waiting until it is gone', () => {
    const [device] = fixture.hostDevices;
    expect(fixture.path.detach(device)).toBe(0);
    expect(fixture.path.attach(device, fixture.requester(0))).toBe(0);
    expect([fixture.blocked, fixture.path.pending]).toEqual([[true, true], true]);
    fixture.run([]);
    fixture.agrees();
    expect(fixture.path.pending).toBe(false);
  });

  test('is not left to a device that its guest could not take off before', () => {
    fixture.run([]);
    fixture.run([map(0, 4)]);
    fixture.kernel.hooks.fail({ kind: 'VFIO_DEVICE_DETACH_IOMMUFD_PT', nth: 1, errno: errno.EIO });
    expect(fixture.path.detach(fixture.hostDevices[0])).toBe(-errno.EIO);
    expect(fixture.blocked).toEqual([false, false]);
    fixture.kernel.hooks.fail({ kind: 'IOMMU_IOAS_UNMAP', nth: 1, errno: errno.EIO });
    fixture.run([unmap(0, 4)]);
    expect(fixture.blocked).toEqual([true, true]);
  });

  test('is gone from a device that could not be detached at once, as soon as it can', () => {
    fixture.run([]);
    fixture.run([map(0, 4)]);
    fixture.kernel.hooks.fail({ kind: 'IOMMU_IOAS_UNMAP', nth: 1, errno: errno.EIO });
    fixture.kernel.hooks.fail({ kind: 'IOMMU_IOAS_UNMAP', nth: 2, errno: errno.EIO });
    fixture.kernel.hooks.fail({ kind: 'VFIO_DEVICE_DETACH_IOMMUFD_PT', nth: 1, errno: errno.EIO });
    fixture.run([unmap(0, 4)]);
    fixture.run([]);
    expect(fixture.blocked).toEqual([true, true]);
  });
});

test('an unmap of several mappings that fails half-way leaves no doubt about what is gone', () => {
  const fixture = new Fixture(shadow, { owner: 'target' });
  for (let i = 0; i < 4; i++) fixture.run([{ from: i, count: 1, gpa: 0, permission: 3 }]);
  // The kernel takes the first one away, and then fails: whoever removes areas one after the other does that.
  halfWay();
  expect(fixture.run([{ from: 0, count: 4, gpa: 0, permission: 0 }])).toBe(0);
  fixture.agrees();
  expect(fixture.run([{ from: 0, count: 4, gpa: 0, permission: 3 }])).toBe(0);
  fixture.agrees();
});
