import { beforeAll, describe, expect, test } from 'vitest';
import { shadow } from '../../src/accel/shadow.ts';
import { openHost } from '../../src/host/registry.ts';
import { simKernel } from '../../src/host/sim/index.ts';
import { READ } from '../../src/memory/access.ts';
import { GuestMemory } from '../../src/memory/guest-memory.ts';
import { IntervalMap } from '../../src/memory/interval-map.ts';
import type { AddressSpace } from '../../src/target/target.ts';
import { REQUESTER } from './path-fixture.ts';

/* The shadow path's work where a space has many entries, or large ones. */

/** A shadow of the space before one device, which `attach` brings to it; guest RAM is of so many pages. */
function shadowed(space: AddressSpace, ramPages: number, kind: 'iommufd' | 'vfio-type1' = 'iommufd') {
  const kernel = simKernel();
  const host = openHost(kind, kernel);
  const ram = kernel.allocate(ramPages * 4096);
  const memory = new GuestMemory([{ gpa: 0n, buffer: ram.buffer, hostAddress: ram.address }]);
  const path = shadow.create({ space, memory, host });
  const { path: node, group } = kernel.device();
  const attach = () => path.attach(host.openDevice(kind === 'iommufd' ? node : `/dev/vfio/${group.number}`), REQUESTER);
  return { kernel, host, ram, path, attach };
}

describe('a space of any number of entries', () => {
  /** Every second page of so many is mapped, and a device reaches it. */
  function scattered(entries: number) {
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
    const { kernel, host, path, attach } = shadowed(space, 16);
    const slice = (run: () => number): number => {
      const before = host.calls.map + visited;
      expect(run()).toBe(0);
      return host.calls.map + visited - before;
    };
    const reaches = (page: number) => kernel.device().hostPfn(page, READ) >= 0;
    return { host, path, slice, gone, reaches, attach };
  }

  /** Entries that each slice mapped. */
  function slicesOf(entries: number): number[] {
    const { host, path, attach } = scattered(entries);
    expect(attach()).toBe(0);
    const mapped = [host.calls.map];
    while (path.unfinished) {
      expect(path.flush()).toBe(0);
      mapped.push(host.calls.map);
    }
    return mapped.map((calls, i) => calls - (mapped[i - 1] ?? 0));
  }

  let first: readonly number[];
  beforeAll(() => {
    first = slicesOf(6000);
  });
  test('the first slices of a process are small, for they run code that is not compiled', () => {
    // Whether these were the first depends on what the process has run before.
    expect([256, 512, 1024, 2048]).toContain(first[0]);
    for (const [i, entries] of first.slice(0, -1).entries()) if (i > 0) expect(entries).toBe(Math.min(2 * first[i - 1], 2048));
    expect(slicesOf(3000)).toEqual([2048, 952]);
  });

  test('it is populated in slices of bounded work, in order, and the work is that of its entries', () => {
    const entries = 20_000;
    const { host, path, slice, reaches, attach } = scattered(entries);
    const most = 2 * 2048 + 1;
    expect(slice(attach)).toBeLessThanOrEqual(most);
    let slices = 1;
    for (; path.unfinished; slices++) {
      expect(reaches(2 * entries - 2)).toBe(false);
      expect(slice(() => path.flush())).toBeLessThanOrEqual(most);
    }
    expect(slices).toBe(Math.ceil(entries / 2048));
    expect(host.calls.map).toBe(entries);
    expect([0, entries, 2 * entries - 2].map((page) => reaches(page))).toEqual([true, true, true]);
  });

  test('a slice counts host calls: runs that are mapped in pieces since a split are fewer', () => {
    const [runs, length, most] = [4000, 16, 2048];
    let hole = -1;
    const space: AddressSpace = {
      name: 'runs of 16 pages',
      owner: 'target',
      announced: true,
      granuleLg2: 12,
      apertures: [{ first: 0, last: runs * 32 - 1 }],
      enumerate(first, last, visit) {
        for (let start = first - (first % 32); start <= last; start += 32) {
          const ends = hole >= start && hole < start + length ? [hole, hole + 1] : [start, start];
          for (const [from, end] of [
            [start, ends[0]],
            [ends[1], start + length],
          ]) {
            const [at, stop] = [Math.max(from, first), Math.min(end, last + 1)];
            if (at < stop && !visit(at, at - start, stop - at, 3)) return stop;
          }
        }
        return last + 1;
      },
    };
    const { kernel, host, path, attach } = shadowed(space, length);
    expect(attach()).toBe(0);
    expect(host.calls.map).toBe(most);
    hole = 5;
    path.changed(hole, hole);
    expect(path.flush()).toBe(0);
    expect(path.counters.splits).toBe(1);
    for (let slices = 0; path.unfinished; slices++) {
      const before = host.calls.map;
      expect(path.flush()).toBe(0);
      expect(host.calls.map - before).toBeLessThanOrEqual(most + length);
      expect(slices).toBeLessThan(runs);
    }
    expect([4, 5, 6, runs * 32 - 17, runs * 32 - 16].map((page) => kernel.device().hostPfn(page, READ) >= 0)).toEqual([
      true,
      false,
      true,
      true,
      false,
    ]);
  });

  test.each([
    [1024, { splits: 0, splitsWithoutGap: 1 }],
    [1025, { splits: 1, splitsWithoutGap: 0 }],
  ])('of %i mappings a copy takes the place of one that is split, of more it would cost more than the gap', (mappings, counters) => {
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
    const { kernel, ram, path, attach } = shadowed(space, 16);
    expect(attach()).toBe(0);
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

test('a hole of one page in a large mapping costs few host calls, then and later', () => {
  const pages = 1 << 18;
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
  const { host, path, attach } = shadowed(space, pages);
  expect(attach()).toBe(0);
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
  const { kernel, host, path, attach } = shadowed(space, pages, 'vfio-type1');
  expect(attach()).toBe(0);
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
