import { fc, test } from '@fast-check/vitest';
import { beforeEach, describe, expect, vi } from 'vitest';
import { shadow } from '../../src/accel/shadow.ts';
import { errno } from '../../src/host/errno.ts';
import { IommufdSpace } from '../../src/host/iommufd/space.ts';
import { hostKinds, openHost } from '../../src/host/registry.ts';
import { simKernel } from '../../src/host/sim/index.ts';
import { READ } from '../../src/memory/access.ts';
import { GuestMemory } from '../../src/memory/guest-memory.ts';
import { IntervalMap } from '../../src/memory/interval-map.ts';
import type { AddressSpace } from '../../src/target/target.ts';
import { Fixture, REGION_PAGES, REQUESTER, type Step } from './path-fixture.ts';
import { TOY_PAGES } from './toy-space.ts';

/* What the shadow path does beside what every path does (suite.ts): splits, hosts with few mappings, spaces of any size, host calls. */

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
    for (const device of fixture.devices) expect(fixture.hardware(device)).toEqual(fixture.meant());
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
    expect(fixture.hardware(fixture.devices[0])).toEqual(fixture.meant());
  });

  test('single pages fill it to the last mapping', () => {
    const fixture = new Fixture(shadow, { owner: 'target', host: 'vfio-type1', dmaEntryLimit: 2 });
    for (const from of [0, 16]) expect(fixture.run([{ from, count: 1, gpa: 0, permission: 3 }])).toBe(0);
    expect(fixture.hardware(fixture.devices[0])).toEqual(fixture.meant());
  });

  test('an unmap succeeds when the reserve is used up, and what lost its mapping has one again when there is room', () => {
    const fixture = new Fixture(shadow, { owner: 'target', host: 'vfio-type1', dmaEntryLimit: 2 });
    fixture.run([{ from: 0, count: 5, gpa: 0, permission: 3 }]);
    expect(fixture.run([{ from: 1, count: 1, gpa: 0, permission: 0 }])).toBe(0);
    expect(fixture.run([{ from: 3, count: 1, gpa: 0, permission: 0 }])).toBe(0);
    const held = fixture.hardware(fixture.devices[0]);
    held.forEach((found, i) => {
      if (found !== null) expect(found).toBe(fixture.meant()[i]);
    });
    expect(fixture.path.pending).toBe(true);
    expect(fixture.run([{ from: 0, count: 1, gpa: 0, permission: 0 }])).toBe(0);
    expect(fixture.hardware(fixture.devices[0])).toEqual(fixture.meant());
    expect(fixture.path.pending).toBe(false);
  });
});

describe('a host whose mappings run short', () => {
  const room = 6;
  const op = fc.record({ from: fc.nat(15), count: fc.integer({ min: 1, max: 5 }), permission: fc.constantFrom(0, 3) });

  test.prop([fc.array(op, { minLength: 1, maxLength: 30 })], { numRuns: 60 })(
    'an unmap never fails; what the guest may have page by page it is never refused; and what fits is mapped',
    (operations) => {
      const fixture = new Fixture(shadow, { owner: 'target', host: 'vfio-type1', dmaEntryLimit: room });
      for (const { from, count, permission } of operations) {
        const before = fixture.space.pages;
        const answer = fixture.run([{ from, count, gpa: 0, permission }]);
        if (permission === 0) expect(answer).toBe(0);
        if (answer < 0) {
          expect(answer).toBe(-errno.ENOSPC);
          expect(fixture.space.pages.filter((page) => page !== null).length).toBeGreaterThan(room);
          fixture.space.pages = before;
          fixture.path.changed(fixture.space.base, fixture.space.base + TOY_PAGES - 1);
          expect(fixture.path.flush()).toBe(0);
        }
        const meant = fixture.meant();
        const runs = meant.filter((page, i) => page !== null && (i === 0 || meant[i - 1] === null)).length;
        if (runs <= room) expect(fixture.hardware(fixture.devices[0])).toEqual(meant);
      }
    },
  );

  test('three coalesced maps and another: the unmap of the middle takes nothing else away', () => {
    const fixture = new Fixture(shadow, { owner: 'target', host: 'vfio-type1', dmaEntryLimit: 3 });
    fixture.run([0, 1, 2].map((from) => ({ from, count: 1, gpa: 0, permission: 3 })));
    expect(fixture.run([{ from: 16, count: 1, gpa: 0, permission: 3 }])).toBe(0);
    expect(fixture.run([{ from: 1, count: 1, gpa: 0, permission: 0 }])).toBe(0);
    expect(fixture.hardware(fixture.devices[0])).toEqual(fixture.meant());
    expect(fixture.path.pending).toBe(false);
  });

  test('neighbours that came one by one become one when another map needs room', () => {
    const fixture = new Fixture(shadow, { owner: 'target', host: 'vfio-type1', dmaEntryLimit: 4 });
    for (let from = 0; from < 4; from++) fixture.run([{ from, count: 1, gpa: 0, permission: 3 }]);
    expect(fixture.path.counters.merges).toBe(0);
    expect(fixture.run([{ from: 16, count: 1, gpa: 0, permission: 3 }])).toBe(0);
    expect(fixture.path.counters.merges).toBe(1);
    expect(fixture.hardware(fixture.devices[0])).toEqual(fixture.meant());
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
      expect(fixture.hardware(fixture.devices[0])).toEqual(fixture.meant());
      expect(fixture.path.pending).toBe(false);
    },
  );
});

describe('a space of any number of entries', () => {
  /** Every second page of so many is mapped, and a device reaches it. */
  function scattered(entries: number) {
    const kernel = simKernel();
    const host = openHost('iommufd', kernel);
    const ram = kernel.allocate(16 * 4096);
    const memory = new GuestMemory([{ gpa: 0n, buffer: ram.buffer, hostAddress: ram.address }]);
    const gone = new Set<number>();
    let visited = 0;
    const space: AddressSpace = {
      name: 'every second page',
      owner: 'target',
      announced: true,
      granuleLg2: 12,
      apertures: [{ first: 0, last: 2 * entries - 1 }],
      enumerate(first, last, visit) {
        for (let page = first + (first % 2); page <= last; page += 2) {
          visited++;
          if (!gone.has(page) && !visit(page, page % 16, 1, 3)) return page + 1;
        }
        return last + 1;
      },
    };
    const path = shadow.create({ space, memory, host });
    const slice = (run: () => number): number => {
      const before = host.calls.map + visited;
      expect(run()).toBe(0);
      return host.calls.map + visited - before;
    };
    const reaches = (page: number) => kernel.device().hostPfn(page, READ) >= 0;
    return { host, path, slice, gone, reaches, attach: () => path.attach(host.openDevice(kernel.device().path), REQUESTER) };
  }

  test('it is populated in slices of bounded work, in order, and the work is that of its entries', () => {
    const entries = 20_000;
    const { host, path, slice, reaches, attach } = scattered(entries);
    const most = 2 * 8192 + 1;
    expect(slice(attach)).toBeLessThanOrEqual(most);
    let slices = 1;
    for (; path.unfinished; slices++) {
      expect(reaches(2 * entries - 2)).toBe(false);
      expect(slice(() => path.flush())).toBeLessThanOrEqual(most);
    }
    expect(slices).toBe(Math.ceil(entries / 8192));
    expect(host.calls.map).toBe(entries);
    expect([0, entries, 2 * entries - 2].map((page) => reaches(page))).toEqual([true, true, true]);
  });

  test.each([
    [1024, { splits: 0, splitsWithoutGap: 1 }],
    [1025, { splits: 1, splitsWithoutGap: 0 }],
  ])('of %i mappings a copy takes the place of one that is split, of more it would cost more than the gap', (mappings, counters) => {
    const kernel = simKernel();
    const host = openHost('iommufd', kernel);
    const ram = kernel.allocate(16 * 4096);
    const memory = new GuestMemory([{ gpa: 0n, buffer: ram.buffer, hostAddress: ram.address }]);
    let gone = -1;
    const space: AddressSpace = {
      name: 'every third page is missing',
      owner: 'target',
      announced: true,
      granuleLg2: 12,
      apertures: [{ first: 0, last: 3 * mappings - 1 }],
      enumerate(first, last, visit) {
        for (let page = first; page <= last; page++) {
          if (page % 3 === 2 || page === gone) continue;
          const pages = page % 3 === 0 && page < last && page + 1 !== gone ? 2 : 1;
          if (!visit(page, page % 3, pages, 3)) return page + pages;
          page += pages - 1;
        }
        return last + 1;
      },
    };
    const path = shadow.create({ space, memory, host });
    expect(path.attach(host.openDevice(kernel.device().path), REQUESTER)).toBe(0);
    gone = 300;
    path.changed(gone, gone);
    expect(path.flush()).toBe(0);
    expect(path.counters).toMatchObject(counters);
    const reached = [299, 300, 301, 303, 3 * mappings - 2].map((page) => kernel.device().hostPfn(page, READ) - Number(ram.address >> 12n));
    expect(reached.map((page) => (page < 0 ? null : page))).toEqual([null, null, 1, 0, 1]);
  });

  test('what the guest changes meanwhile is done at once, wherever it lies, and stays', () => {
    const { path, gone, reaches, attach } = scattered(20_000);
    expect(attach()).toBe(0);
    for (const page of [2, 30_000]) {
      gone.add(page);
      path.changed(page, page + 2);
      expect(path.flush()).toBe(0);
      expect([page, page + 2].map(reaches)).toEqual([false, true]);
    }
    while (path.unfinished) expect(path.flush()).toBe(0);
    expect([2, 30_000, 39_998].map(reaches)).toEqual([false, false, true]);
  });
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
  for (const device of fixture.devices) expect(fixture.hardware(device)).toEqual(fixture.meant());
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
  const blocked = (): boolean[] => fixture.devices.map((device) => fixture.hardware(device).every((found) => found === null));

  test('blocks every device, and a split elsewhere does not let one in', () => {
    expect(blocked()).toEqual([true, true]);
    // It is tried again by every flush; this one fails as well.
    fixture.kernel.hooks.fail({ kind: 'IOMMU_IOAS_UNMAP', nth: 2, errno: errno.EIO });
    fixture.run([unmap(12, 1)]);
    expect(blocked()).toEqual([true, true]);
    fixture.run([]);
    for (const device of fixture.devices) expect(fixture.hardware(device)).toEqual(fixture.meant());
  });

  test('blocks them too while another change needs more than one look', () => {
    fixture.space.reach = 4;
    fixture.run([map(20, 12)]);
    expect(fixture.path.unfinished).toBe(true);
    expect(blocked()).toEqual([true, true]);
    while (fixture.path.unfinished) fixture.path.flush();
    for (const device of fixture.devices) expect(fixture.hardware(device)).toEqual(fixture.meant());
  });

  test('lets the devices in again one by one, whichever attach fails', () => {
    fixture.kernel.hooks.fail({ kind: 'VFIO_DEVICE_ATTACH_IOMMUFD_PT', nth: 2, errno: errno.ENOMEM });
    fixture.run([]);
    expect(fixture.hardware(fixture.devices[0])).toEqual(fixture.meant());
    expect(blocked()).toEqual([false, true]);
    expect(fixture.path.detach(fixture.hostDevices[0])).toBe(0);
    expect(blocked()).toEqual([true, true]);
    fixture.run([]);
    expect(fixture.hardware(fixture.devices[1])).toEqual(fixture.meant());
  });

  test('is gone from a device that could not be detached at once, as soon as it can', () => {
    fixture.run([]);
    fixture.run([map(0, 4)]);
    fixture.kernel.hooks.fail({ kind: 'IOMMU_IOAS_UNMAP', nth: 1, errno: errno.EIO });
    fixture.kernel.hooks.fail({ kind: 'IOMMU_IOAS_UNMAP', nth: 2, errno: errno.EIO });
    fixture.kernel.hooks.fail({ kind: 'VFIO_DEVICE_DETACH_IOMMUFD_PT', nth: 1, errno: errno.EIO });
    fixture.run([unmap(0, 4)]);
    fixture.run([]);
    expect(blocked()).toEqual([true, true]);
  });
});

test('a hole of one page in a large mapping costs few host calls, then and later', () => {
  const pages = 1 << 18;
  const kernel = simKernel();
  const host = openHost('iommufd', kernel);
  const ram = kernel.allocate(pages * 4096);
  const memory = new GuestMemory([{ gpa: 0n, buffer: ram.buffer, hostAddress: ram.address }]);
  let hole = -1;
  const space: AddressSpace = {
    name: 'one run with a hole',
    owner: 'guest',
    announced: true,
    granuleLg2: 12,
    apertures: [{ first: 0, last: pages - 1 }],
    enumerate(first, last, visit) {
      if (hole < first || hole > last) visit(first, first, last - first + 1, 3);
      else if ((hole === first || visit(first, first, hole - first, 3)) && hole < last) visit(hole + 1, hole + 1, last - hole, 3);
      return last + 1;
    },
  };
  const path = shadow.create({ space, memory, host });
  expect(path.attach(host.openDevice(kernel.device().path), REQUESTER)).toBe(0);
  const calls = (first: number, last: number): number => {
    const before = host.calls.map + host.calls.unmap + host.calls.copy;
    path.changed(first, last);
    expect(path.flush()).toBe(0);
    return host.calls.map + host.calls.unmap + host.calls.copy - before;
  };
  hole = 100_000;
  expect(calls(hole, hole)).toBeLessThanOrEqual(3);
  hole = -1;
  expect(calls(100_000, 100_000)).toBe(1);
  // Everything anew, as a guest that unmapped one page once: in pieces, but not in pages.
  hole = 7;
  expect(calls(0, pages - 1)).toBeLessThanOrEqual(3 * 512);
});

test('in a run that is cut into large pieces, a piece that is split once more falls to the grain: what follows there is no split', () => {
  const pages = 1 << 18;
  const kernel = simKernel();
  const host = openHost('vfio-type1', kernel);
  const ram = kernel.allocate(pages * 4096);
  const memory = new GuestMemory([{ gpa: 0n, buffer: ram.buffer, hostAddress: ram.address }]);
  const holes = new IntervalMap(64);
  let mapped = true;
  const space: AddressSpace = {
    name: 'one run with holes',
    owner: 'target',
    announced: true,
    granuleLg2: 12,
    apertures: [{ first: 0, last: pages - 1 }],
    enumerate(first, last, visit) {
      let at = first;
      if (mapped) {
        holes.intervals(first, last, (hole) => {
          if (hole > at && !visit(at, at, hole - at, 3)) return false;
          at = hole + 1;
          return true;
        });
        if (at <= last) visit(at, at, last - at + 1, 3);
      }
      return last + 1;
    },
  };
  const path = shadow.create({ space, memory, host });
  expect(path.attach(host.openDevice(`/dev/vfio/${kernel.device().group.number}`), REQUESTER)).toBe(0);
  const flush = (first: number, last: number) => {
    path.changed(first, last);
    expect(path.flush()).toBe(0);
    return path.counters.splits;
  };
  const unmap = (page: number) => {
    holes.insert(page, 1, 0, 0);
    return flush(page, page);
  };
  expect(unmap(100_000)).toBe(1);
  holes.clear();
  mapped = false;
  flush(0, pages - 1);
  mapped = true;
  flush(0, pages - 1);
  const before = host.calls.map;
  expect(unmap(5000)).toBe(2);
  expect(host.calls.map - before).toBeLessThanOrEqual(2 * 512);
  for (const page of [4999, 5001, 4700, 5100]) expect(unmap(page)).toBe(2);
  for (const [page, there] of [
    [4998, true],
    [5000, false],
    [5100, false],
    [5101, true],
  ] as const)
    expect(kernel.device().hostPfn(page, READ) >= 0).toBe(there);
});

test('an unmap of several mappings that fails half-way leaves no doubt about what is gone', () => {
  const fixture = new Fixture(shadow, { owner: 'target' });
  for (let i = 0; i < 4; i++) fixture.run([{ from: i, count: 1, gpa: 0, permission: 3 }]);
  // The kernel takes the first one away, and then fails: whoever removes areas one after the other does that.
  halfWay();
  expect(fixture.run([{ from: 0, count: 4, gpa: 0, permission: 0 }])).toBe(0);
  expect(fixture.hardware(fixture.devices[0])).toEqual(fixture.meant());
  expect(fixture.run([{ from: 0, count: 4, gpa: 0, permission: 3 }])).toBe(0);
  expect(fixture.hardware(fixture.devices[0])).toEqual(fixture.meant());
});
