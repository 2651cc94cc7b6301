import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { errno } from '../../src/host/errno.ts';
import type { PortMemory } from '../../src/host/port.ts';
import { type SimKernel, simKernel } from '../../src/host/sim/index.ts';
import { TceHost } from '../../src/host/vfio-spapr-tce/index.ts';
import { ProcessPieces, RegisteredMemory } from '../../src/host/vfio-spapr-tce/registered-memory.ts';
import { READ_WRITE } from '../../src/memory/access.ts';
import { pfnOf } from '../../src/memory/address.ts';
import { groupPaths } from './sim-fixture.ts';

const BASE = 0x1000;
/** First page of the second window. */
const HIGH = 2 ** (59 - 12);
/** Last page of the default window. */
const END = 0x7_ffff;

describe('vfio-spapr-tce: what fails half-way', () => {
  let kernel: SimKernel;
  let host: TceHost;
  let memory: PortMemory;
  let pfn: number;

  beforeEach(() => {
    kernel = simKernel({ iommus: [{ tce: {} }] });
    host = new TceHost(kernel);
    memory = kernel.allocate(64 * 4096);
    pfn = pfnOf(memory.address);
  });
  afterEach(() => host.close());

  function attached(device = host.openDevice(groupPaths(kernel)[0])) {
    const space = host.createSpace({ windows: [{ sizeLg2: 30 }] });
    expect(space.attach(device), space.error?.message).toBe(0);
    return space;
  }
  const reached = (...pages: number[]) => pages.map((page) => kernel.device().hostPfn(page, READ_WRITE));

  test('an unmap over two windows that fails at the second: nothing has happened, and it can be asked for again', () => {
    const space = attached();
    expect(space.map(BASE, pfn, 2, READ_WRITE)).toBe(0);
    expect(space.map(HIGH, pfn + 4, 1, READ_WRITE)).toBe(0);
    kernel.hooks.fail({ kind: 'VFIO_IOMMU_UNMAP_DMA', nth: 2, errno: errno.EIO });
    expect(space.unmap(0, 2 ** 52)).toBe(-errno.EIO);
    expect(space.error?.message).toMatch(/VFIO_IOMMU_UNMAP_DMA .*: EIO/);
    expect(reached(BASE, BASE + 1, HIGH)).toEqual([pfn, pfn + 1, pfn + 4]);
    expect(space.unmap(0, 2 ** 52)).toBe(0);
    expect(reached(BASE, BASE + 1, HIGH).every((found) => found < 0)).toBe(true);
    expect(kernel.live()).toMatchObject({ tces: 0, registrations: 0 });
  });

  test('an unmap that reaches past the end of a window is one call, for what lies in it', () => {
    const space = attached();
    expect(space.map(END - 1, pfn, 1, READ_WRITE)).toBe(0);
    expect(space.map(END, pfn + 1, 1, READ_WRITE)).toBe(0);
    const before = host.calls.unmap;
    expect(space.unmap(END - 1, 100)).toBe(0);
    expect(host.calls.unmap).toBe(before + 1);
    expect(reached(END - 1, END).every((found) => found < 0)).toBe(true);
  });

  test('mappings that lie side by side in two windows go in two calls: the kernel takes none that leads out of one', () => {
    host.close();
    kernel = simKernel({ iommus: [{ tce: { start64: BigInt(END + 1) << 12n } }] });
    host = new TceHost(kernel);
    memory = kernel.allocate(64 * 4096);
    pfn = pfnOf(memory.address);
    const space = attached();
    expect(space.windows.map(({ first }) => first)).toEqual([0, END + 1]);
    expect(space.map(END - 1, pfn, 2, READ_WRITE)).toBe(0);
    expect(space.map(END + 1, pfn + 2, 2, READ_WRITE)).toBe(0);
    const asked: string[] = [];
    kernel.hooks.observe({ after: ({ kind }, result) => void asked.push(`${kind} ${result}`) });
    expect(space.unmap(END - 1, 4)).toBe(0);
    expect(asked.filter((call) => call.startsWith('VFIO_IOMMU_UNMAP_DMA'))).toEqual(['VFIO_IOMMU_UNMAP_DMA 0', 'VFIO_IOMMU_UNMAP_DMA 0']);
    expect(reached(END - 1, END, END + 1, END + 2).every((found) => found < 0)).toBe(true);
  });

  test('memory that was registered ahead of another device is nobody’s when that one has left', () => {
    const unshare = host.share({ first: pfn, pages: 64, file: null });
    const device = host.openDevice(groupPaths(kernel)[0]);
    const space = attached(device);
    expect(space.detach(device)).toBe(0);
    // This time only what is mapped can be registered; telling that the rest is shared no more takes nothing from that.
    kernel.hooks.fail({ kind: 'VFIO_IOMMU_SPAPR_REGISTER_MEMORY', nth: 1, errno: errno.ENOMEM });
    expect(space.attach(device)).toBe(0);
    expect(space.map(BASE, pfn + 2, 1, READ_WRITE)).toBe(0);
    expect(kernel.live()['registrations']).toBe(1);
    unshare();
    expect([kernel.live()['registrations'], reached(BASE)]).toEqual([1, [pfn + 2]]);
    expect(space.unmap(BASE, 1)).toBe(0);
    expect(kernel.live()['registrations']).toBe(0);
  });

  test('a registration that is refused leaves no mapping, and memory that others hold stays registered', () => {
    const space = attached();
    expect(space.map(BASE, pfn + 2, 1, READ_WRITE)).toBe(0);
    const before = kernel.live();
    kernel.hooks.fail({ kind: 'VFIO_IOMMU_SPAPR_REGISTER_MEMORY', nth: 2, errno: errno.ENOMEM });
    expect(space.map(BASE + 8, pfn, 8, READ_WRITE)).toBe(-errno.ENOMEM);
    expect(space.error?.message).toMatch(/VFIO_IOMMU_SPAPR_REGISTER_MEMORY .*: ENOMEM/);
    expect(kernel.live()).toEqual(before);
    expect(reached(BASE, BASE + 8)).toEqual([pfn + 2, expect.any(Number)]);
    expect(reached(BASE + 8)[0]).toBeLessThan(0);
    expect(space.map(BASE + 8, pfn, 8, READ_WRITE)).toBe(0);
    expect(reached(BASE + 15)).toEqual([pfn + 7]);
  });

  test('a map that is refused takes its registration back', () => {
    const space = attached();
    kernel.hooks.fail({ kind: 'VFIO_IOMMU_MAP_DMA', nth: 1, errno: errno.ENOMEM });
    expect(space.map(BASE, pfn, 4, READ_WRITE)).toBe(-errno.ENOMEM);
    expect(kernel.live()).toMatchObject({ tces: 0, registrations: 0 });
  });

  test('a window that gave way to one that cannot be is back, and maps', () => {
    const space = host.createSpace();
    expect(space.attach(host.openDevice(groupPaths(kernel)[0])), space.error?.message).toBe(0);
    const before = space.windows.slice();
    kernel.hooks.fail({ kind: 'VFIO_IOMMU_SPAPR_TCE_CREATE', nth: 1, errno: errno.EIO });
    expect(space.cover([{ first: 0, last: END + 1 }])).toBe(-errno.EIO);
    expect(kernel.hooks.counts.get('VFIO_IOMMU_SPAPR_TCE_REMOVE'), 'it gave way').toBe(1);
    expect(space.windows).toEqual(before);
    expect(space.map(END, pfn, 1, READ_WRITE)).toBe(0);
    expect(reached(END)).toEqual([pfn]);
  });

  test('a window that the kernel does not remove keeps what is mapped in it', () => {
    const space = attached();
    expect(space.map(HIGH, pfn, 1, READ_WRITE)).toBe(0);
    kernel.hooks.fail({ kind: 'VFIO_IOMMU_SPAPR_TCE_REMOVE', nth: 1, errno: errno.EBUSY });
    expect(space.removeWindow(space.windows[1])).toBe(-errno.EBUSY);
    expect(space.windows).toHaveLength(2);
    expect(reached(HIGH)).toEqual([pfn]);
    expect(space.unmap(HIGH, 1)).toBe(0);
  });
});

test('registered memory: a hold that fails at a later piece gives back what it registered and the shares that it took', () => {
  const registered = new Map<number, number>();
  let refuse = false;
  const memory = new RegisteredMemory(
    new ProcessPieces(),
    (first, pages) => {
      if (refuse && first === 20) return -errno.ENOMEM;
      registered.set(first, pages);
      return 0;
    },
    (first) => (registered.delete(first) ? 0 : -errno.ENOENT),
  );
  expect(memory.hold(10, 10)).toBe(0);
  refuse = true;
  expect(memory.hold(5, 20)).toBe(-errno.ENOMEM);
  expect([...registered]).toEqual([[10, 10]]);
  refuse = false;
  expect(memory.hold(5, 20)).toBe(0);
  memory.drop(10, 10);
  expect([...registered.keys()].sort((a, b) => a - b)).toEqual([5, 10, 20]);
  memory.drop(5, 20);
  expect(registered.size).toBe(0);
});
