import { fc, test as property } from '@fast-check/vitest';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { errno } from '../../src/host/errno.ts';
import type { PortMemory } from '../../src/host/port.ts';
import { type SimKernel, simKernel } from '../../src/host/sim/index.ts';
import type { TceConfig } from '../../src/host/sim/vfio/tce-tables.ts';
import { VFIO_IOMMU_SPAPR_TCE_CREATE } from '../../src/host/vfio/uapi.ts';
import { TceHost, type TceRequirements } from '../../src/host/vfio-spapr-tce/index.ts';
import { ProcessPieces, RegisteredMemory } from '../../src/host/vfio-spapr-tce/registered-memory.ts';
import { TCE_CREATE } from '../../src/host/vfio-spapr-tce/uapi.ts';
import { READ, READ_WRITE } from '../../src/memory/access.ts';
import { pfnOf } from '../../src/memory/address.ts';
import { groupPaths } from './sim-fixture.ts';

/** What the sPAPR TCE driver does beyond the contract of all hosts (include/uapi/linux/vfio.h, "Additional API for SPAPR TCE"). */

const BASE = 0x1000;
/** First page of the second window. */
const HIGH = 2 ** (59 - 12);

describe('vfio-spapr-tce', () => {
  let kernel: SimKernel;
  let host: TceHost;
  let memory: PortMemory;
  let pfn: number;

  function start(tce: TceConfig = {}, version: 1 | 2 = 2): void {
    kernel = simKernel({ iommus: [{ tce }] });
    host = new TceHost(kernel, version);
    memory = kernel.allocate(64 * 4096);
    pfn = pfnOf(memory.address);
  }
  beforeEach(() => start());
  afterEach(() => host.close());

  const open = () => host.openDevice(groupPaths(kernel)[0]);
  function attached(requirements: TceRequirements = {}) {
    const space = host.createSpace(requirements);
    const device = open();
    expect(space.attach(device), space.error?.message).toBe(0);
    return { space, device };
  }
  const registrations = () => kernel.live()['registrations'] ?? 0;

  test('without a wish there is the default window', () => {
    const { space } = attached();
    expect(space.apertures()).toEqual([{ first: 0, last: 0x7_ffff }]);
    expect(space.granuleLg2).toBe(12);
  });

  test('a wished window is created by page size, size and levels', () => {
    const { space } = attached({ windows: [{ pageLg2: 24, sizeLg2: 40, levels: 3 }] });
    expect(space.windows[1]).toEqual({ first: HIGH, last: HIGH + 2 ** 28 - 1, pageLg2: 24 });
    expect(space.granuleLg2).toBe(24);
  });

  test('what a wish leaves open is chosen: the smallest page, 32 GiB, the fewest levels', () => {
    const { space } = attached({ windows: [{}] });
    expect(space.windows[1]).toEqual({ first: HIGH, last: HIGH + 2 ** 23 - 1, pageLg2: 12 });
  });

  test('levels are tried from the fewest on, for each size from the largest on', () => {
    const asked: [sizeLg2: number, levels: number][] = [];
    const { ioctl } = kernel;
    kernel.ioctl = (fd, request, argument) => {
      if (request !== VFIO_IOMMU_SPAPR_TCE_CREATE || typeof argument === 'number') return ioctl.call(kernel, fd, request, argument);
      const view = new DataView(argument.buffer);
      asked.push([Math.log2(Number(view.getBigUint64(TCE_CREATE.windowSize, true))), view.getUint32(TCE_CREATE.levels, true)]);
      return -errno.ENOMEM;
    };
    const space = host.createSpace({ windows: [{}] });
    expect(space.attach(open())).toBe(-errno.ENOMEM);
    expect(asked).toEqual([35, 34, 33, 32, 31, 30, 29, 28].flatMap((sizeLg2) => [1, 2, 3, 4, 5].map((levels) => [sizeLg2, levels])));
  });

  test('a platform that cannot do the largest size gets a smaller one', () => {
    kernel = simKernel({ iommus: [{ tce: {} }], pinLimit: 2 ** 22 + 2 ** 22 });
    host = new TceHost(kernel);
    const { space } = attached({ windows: [{}] });
    const [, window] = space.windows;
    expect(window.last - window.first + 1, 'a table of 4 MiB beside that of the default window').toBe(2 ** 19);
  });

  test.each([
    ['a page size that there is not', { pageLg2: 13 }, errno.EINVAL],
    ['more levels than there are', { levels: 6, sizeLg2: 30 }, errno.EINVAL],
    ['a window smaller than its page', { pageLg2: 24, sizeLg2: 20 }, errno.EINVAL],
    // pnv_pci_ioda2_table_alloc_pages: 5 levels of 9 bits and a page of 12 reach 2^57.
    ['levels that index more than 2^54 bytes with the page', { levels: 5, sizeLg2: 30 }, errno.EINVAL],
    ['a window of 2^55 bytes', { levels: 4, sizeLg2: 55 }, errno.EINVAL],
  ])('%s is refused with what there is', (_, wish, code) => {
    const space = host.createSpace({ windows: [wish] });
    expect(space.attach(open())).toBe(-code);
    expect(space.error?.message).toMatch(/VFIO_IOMMU_SPAPR_TCE_CREATE: EINVAL .*page sizes 0x1011000, 2 windows, 5 levels/);
  });

  test('a third window finds no room', () => {
    const { space } = attached({ windows: [{ sizeLg2: 30 }] });
    expect(space.createWindow({ sizeLg2: 30 })).toBe(-errno.ENOSPC);
    expect(space.windows).toHaveLength(2);
  });

  test('an aperture that only a dynamic window has gets one that reaches far enough', () => {
    const wanted = { first: HIGH + 2 ** 20, last: HIGH + 2 ** 20 + 0xfff };
    const { space } = attached({ apertures: [wanted] });
    expect(space.apertures().some(({ first, last }) => first <= wanted.first && last >= wanted.last)).toBe(true);
    expect(space.map(wanted.first, pfn, 1, READ_WRITE)).toBe(0);
    expect(kernel.device().hostPfn(wanted.first, READ_WRITE)).toBe(pfn);
  });

  test('apertures one of which lies in another, and such as lie closer than they are long, are one window’s', () => {
    const range = (first: number, pages: number) => ({ first: HIGH + first, last: HIGH + first + pages - 1 });
    const inner = attached({ apertures: [range(0, 0x8000), range(0x100, 0x10)] }).space;
    expect(inner.apertures().some(({ first, last }) => first <= HIGH && last >= HIGH + 0x7fff)).toBe(true);
    start();
    // What lies between is one page shorter than the first one, and the platform has no window for the second alone.
    const pages = 2 ** 23;
    const near = attached({ apertures: [range(0, pages), range(2 * pages - 1, 1)] }).space;
    expect(near.apertures().some(({ first, last }) => first <= HIGH && last >= HIGH + 2 * pages - 1)).toBe(true);
  });

  test('memory that could not be registered ahead is not let go of when the host hears of it no more', () => {
    const { space } = attached();
    kernel.hooks.fail({ kind: 'VFIO_IOMMU_SPAPR_REGISTER_MEMORY', nth: 1, errno: errno.ENOMEM });
    const unshare = host.share({ first: pfn, pages: 64, file: null });
    expect(registrations()).toBe(0);
    expect(space.map(BASE, pfn, 2, READ_WRITE)).toBe(0);
    unshare();
    expect([registrations(), kernel.device().hostPfn(BASE, READ_WRITE)], 'the mapping’s').toEqual([1, pfn]);
  });

  test('a window goes with what is mapped in it; another can take its place', () => {
    const { space } = attached({ windows: [{ sizeLg2: 30 }] });
    expect(space.map(HIGH + 5, pfn, 2, READ_WRITE)).toBe(0);
    expect(space.map(BASE, pfn + 8, 1, READ_WRITE)).toBe(0);
    expect(space.removeWindow(space.windows[1])).toBe(0);
    expect(kernel.device().hostPfn(HIGH + 5, READ_WRITE)).toBeLessThan(0);
    expect(kernel.device().hostPfn(BASE, READ_WRITE)).toBe(pfn + 8);
    expect(registrations()).toBe(1);
    expect(space.unmap(HIGH + 5, 2)).toBe(-errno.ENOENT);
    expect(space.createWindow({ sizeLg2: 31 })).toBe(0);
    expect(space.map(HIGH + 2 ** 18, pfn, 1, READ_WRITE)).toBe(0);
  });

  test('a map across the end of a window, or outside of any, is EINVAL and reaches no kernel', () => {
    const { space } = attached();
    const before = { ...host.calls };
    expect(space.map(0x7_ffff, pfn, 2, READ_WRITE)).toBe(-errno.EINVAL);
    expect(space.map(HIGH, pfn, 1, READ_WRITE)).toBe(-errno.EINVAL);
    expect(space.error?.message).toContain('not within one DMA window');
    expect(host.calls).toEqual(before);
  });

  test('one unmap covers mappings of two windows', () => {
    const { space } = attached({ windows: [{ sizeLg2: 30 }] });
    expect(space.map(BASE, pfn, 2, READ_WRITE)).toBe(0);
    expect(space.map(BASE + 2, pfn + 2, 2, READ_WRITE)).toBe(0);
    expect(space.map(HIGH, pfn + 4, 1, READ)).toBe(0);
    const before = host.calls.unmap;
    expect(space.unmap(0, 2 ** 52)).toBe(0);
    expect(host.calls.unmap, 'neighbours go in one call').toBe(before + 2);
    expect(kernel.live()).toMatchObject({ tces: 0, registrations: 0 });
  });

  test('pages larger than the memory’s own are refused with the reason', () => {
    const { space } = attached({ windows: [{ pageLg2: 16, sizeLg2: 30 }] });
    expect(space.map(HIGH, pfn - (pfn % 16), 16, READ_WRITE)).toBeLessThan(0);
    start({ memoryPageLg2: 16 });
    const large = attached({ windows: [{ pageLg2: 16, sizeLg2: 30 }] }).space;
    const aligned = Math.ceil(pfn / 16) * 16;
    expect(large.map(HIGH + 16, aligned, 16, READ_WRITE)).toBe(0);
    expect(kernel.device().hostPfn(HIGH + 21, READ_WRITE)).toBe(aligned + 5);
  });

  test('memory is registered once while it is needed; registered ahead it stays', () => {
    const { space } = attached();
    expect(space.registerMemory(pfn, 64)).toBe(0);
    const before = host.calls.control;
    for (let i = 0; i < 4; i++) expect(space.map(BASE + i, pfn + i, 1, READ_WRITE)).toBe(0);
    expect(space.unmap(BASE, 4)).toBe(0);
    expect(host.calls.control, 'no call but maps and unmaps').toBe(before);
    expect(registrations()).toBe(1);
    space.unregisterMemory(pfn, 64);
    expect(registrations()).toBe(0);
  });

  test('memory that is there in part, or can be read only, is not registered', () => {
    const { space } = attached();
    expect(space.registerMemory(pfn + 62, 4)).toBe(-errno.EFAULT);
    expect(space.registerMemory(pfnOf(kernel.allocate(4096, { writable: false }).address), 1)).toBe(-errno.EFAULT);
    expect(registrations()).toBe(0);
    const { ioctl } = kernel;
    const answers: number[] = [];
    kernel.ioctl = (fd, request, argument) => {
      answers.push(ioctl.call(kernel, fd, request, argument));
      return answers.at(-1)!;
    };
    expect(space.registerMemory(pfn + 61, 5)).toBe(-errno.EFAULT);
    expect(answers, 'how many pages could be pinned (mm_iommu_do_alloc)').toEqual([3]);
    expect(space.registerMemory(pfn + 62, 2)).toBe(0);
  });

  test('two spaces map memory that overlaps: a process registers no page twice', () => {
    kernel = simKernel({ iommus: [{ tce: {} }], devices: [{ name: 'a' }, { name: 'b' }] });
    host = new TceHost(kernel, 2);
    memory = kernel.allocate(64 * 4096);
    pfn = pfnOf(memory.address);
    const spaces = [0, 1].map((at) => {
      const space = host.createSpace();
      expect(space.attach(host.openDevice(groupPaths(kernel)[at]))).toBe(0);
      return space;
    });
    expect(spaces[0].map(BASE, pfn, 4, READ_WRITE)).toBe(0);
    expect(spaces[1].map(BASE, pfn + 2, 4, READ_WRITE), spaces[1].error?.message).toBe(0);
    expect(kernel.live()['pinnedBytes']).toBe(kernel.live()['dmaWindows'] * (2 ** 19 * 8) + 6 * 4096);
    expect(spaces[0].unmap(BASE, 4)).toBe(0);
    expect(kernel.device('b').hostPfn(BASE, READ)).toBe(pfn + 2);
    expect(spaces[1].unmap(BASE, 4)).toBe(0);
    expect(registrations()).toBe(0);
  });

  test('a container works for one process', () => {
    const { space } = attached();
    expect(space.map(BASE, pfn, 1, READ_WRITE)).toBe(0);
    kernel.as(kernel.fork(), () => expect(space.map(BASE + 1, pfn, 1, READ_WRITE)).toBe(-errno.EPERM));
    expect(space.map(BASE + 1, pfn, 1, READ_WRITE)).toBe(0);
  });

  test('version 1 has the default window alone, switched on', () => {
    start({}, 1);
    const { space } = attached();
    expect(space.map(BASE, pfn, 4, READ_WRITE)).toBe(0);
    expect(kernel.device().hostPfn(BASE + 3, READ_WRITE)).toBe(pfn + 3);
    expect(registrations()).toBe(0);
    expect(() => host.createSpace({ windows: [{}] })).toThrow(/version 1 has no dynamic windows/);
  });

  test('a bridge without dynamic windows takes version 1 only', () => {
    start({ windowsMax: 0, pageSizes: 0n });
    const space = host.createSpace();
    expect(space.attach(open())).toBe(-errno.EINVAL);
    start({ windowsMax: 0, pageSizes: 0n }, 1);
    expect(attached().space.map(BASE, pfn, 1, READ_WRITE)).toBe(0);
  });

  test('version 1 counts the window as locked memory', () => {
    kernel = simKernel({ iommus: [{ tce: {} }], pinLimit: 2 ** 30 });
    host = new TceHost(kernel, 1);
    const space = host.createSpace();
    expect(space.attach(open())).toBe(-errno.ENOMEM);
    expect(space.error?.message).toMatch(/VFIO_IOMMU_ENABLE: ENOMEM .*locked memory/);
  });

  test('the state of the endpoint, where the kernel has EEH', () => {
    expect(attached().space.eehState()).toBe(0);
    start({ eeh: false });
    const { space } = attached();
    expect(space.eehState()).toBe(-errno.EOPNOTSUPP);
  });
});

describe('registered memory', () => {
  const ranges = fc.array(fc.record({ first: fc.nat(40), pages: fc.integer({ min: 1, max: 12 }) }), { maxLength: 20 });

  property.prop([ranges, fc.infiniteStream(fc.nat())])(
    'pieces never overlap, cover what is held, and end with the last holder',
    (holds, order) => {
      const registered = new Map<number, number>();
      const overlapping = (first: number, pages: number) =>
        [...registered].some(([at, length]) => at < first + pages && first < at + length);
      const memory = new RegisteredMemory(
        new ProcessPieces(),
        (first, pages) => {
          if (overlapping(first, pages)) return -errno.EINVAL;
          registered.set(first, pages);
          return 0;
        },
        (first, pages) => (registered.get(first) === pages && registered.delete(first) ? 0 : -errno.ENOENT),
      );
      const held = holds.map((range) => {
        expect(memory.hold(range.first, range.pages)).toBe(0);
        return range;
      });
      while (held.length > 0) {
        for (const { first, pages } of held) {
          for (let page = first; page < first + pages; page++) if (!overlapping(page, 1)) expect.fail(`page ${page} is not registered`);
        }
        const [{ first, pages }] = held.splice(order.next().value % held.length, 1);
        memory.drop(first, pages);
      }
      expect(registered.size).toBe(0);
    },
  );
});
