import { describe, expect, test } from 'vitest';
import { errno } from '../../src/host/errno.ts';
import type { NestingHardware } from '../../src/host/host.ts';
import { IommufdHost } from '../../src/host/iommufd/index.ts';
import { simKernel, smmuv3, vtd } from '../../src/host/sim/index.ts';
import { READ, READ_WRITE } from '../../src/memory/access.ts';
import { pfnOf } from '../../src/memory/address.ts';
import { GuestMemory } from '../../src/memory/guest-memory.ts';
import { GuestTables } from '../accel/guest-tables.ts';

/* First stages of a guest's on hardware that forgets nothing by itself (src/host/host.ts, InstalledStage). */

const RAM_PAGES = 128;
const DRIVER = 64;
const INVALIDATE = 'IOMMU_HWPT_INVALIDATE';

describe.each([
  ['VT-d', () => vtd()],
  ['SMMUv3', () => smmuv3()],
])('what a first stage on %s has to forget', (_, nesting) => {
  function installed(ranges?: number) {
    const kernel = simKernel({ iommus: [{ nesting: nesting() }] });
    const host = new IommufdHost(kernel);
    const device = host.openDevice(kernel.device().path);
    const hardware = host.nesting.hardwareOf(device) as NestingHardware;
    const parent = host.nesting.createParent(device, hardware, false);
    const ram = kernel.allocate(RAM_PAGES * 4096);
    expect(parent.space.map(0, pfnOf(ram.address), RAM_PAGES, READ_WRITE)).toBe(0);
    const memory = new GuestMemory([{ gpa: 0n, buffer: ram.buffer, hostAddress: ram.address }]);
    const tables = new GuestTables(hardware.kind, memory, DRIVER, RAM_PAGES);
    const stage = tables.stage as Extract<typeof tables.stage, { kind: 'vtd' | 'smmuv3' }>;
    const point = parent.install(device, stage, ranges === undefined ? {} : { ranges });
    expect(point.attach(device)).toBe(0);
    /** Maps these pages, has the device read them, and unmaps them: only the hardware has them then. */
    const remember = (...pages: number[]) => {
      for (const page of pages) tables.set(page, 1, 5, READ);
      expect(pages.map((page) => kernel.device().dmaRead(BigInt(page) << 12n, new Uint8Array(1)))).toEqual(pages.map(() => 0));
      for (const page of pages) tables.set(page, 1, 0, 0);
    };
    const has = (...pages: number[]) => pages.map((page) => kernel.device().hostPfn(page, READ) >= 0);
    return { kernel, host, point, remember, has };
  }

  test('a call that fails is made again by the next one, for all of it', () => {
    const { kernel, host, point, remember, has } = installed();
    remember(0x100, 0x300);
    point.invalidate(0x100, 1);
    point.invalidate(0x300, 1);
    kernel.hooks.fail({ kind: INVALIDATE, nth: 1, times: Number.POSITIVE_INFINITY, errno: errno.EIO });
    expect(point.sync()).toBe(-errno.EIO);
    expect(point.error).toMatchObject({ operation: INVALIDATE, errno: errno.EIO });
    expect(has(0x100, 0x300)).toEqual([true, true]);
    kernel.hooks.reset();
    expect(point.sync()).toBe(0);
    expect([has(0x100, 0x300), point.error]).toEqual([[false, false], null]);
    // Nothing is left to do.
    expect([point.sync(), kernel.hooks.counts.get(INVALIDATE)]).toEqual([0, 1]);
    host.close();
  });

  test('ranges are forgotten as they are named, more than can be named with all that there is', () => {
    const { host, point, remember, has } = installed(2);
    remember(0x100, 0x200, 0x300);
    point.invalidate(0x100, 1);
    point.invalidate(0x1f0, 0x20);
    expect(point.sync()).toBe(0);
    expect(has(0x100, 0x200, 0x300)).toEqual([false, false, true]);
    for (const page of [1, 2, 3]) point.invalidate(page, 1);
    expect(point.sync()).toBe(0);
    expect(has(0x300)).toEqual([false]);
    host.close();
  });

  test.each([2 ** 5, 2 ** 10 + 1, 2 ** 25, 2 ** 25 + 1, 2 ** 31, 2 ** 34])('a range of %i pages is forgotten to its last', (pages) => {
    const { host, point, remember, has } = installed();
    const ends = [0x40, 0x40 + Math.min(pages, 2 ** 26) - 1];
    remember(...ends);
    point.invalidate(0x40, pages);
    expect(point.sync()).toBe(0);
    expect(has(...ends)).toEqual([false, false]);
    host.close();
  });
});
