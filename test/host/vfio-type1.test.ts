import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { errno } from '../../src/host/errno.ts';
import type { PortMemory } from '../../src/host/port.ts';
import { type SimKernel, type SimMachine, simKernel } from '../../src/host/sim/index.ts';
import { Type1Host } from '../../src/host/vfio-type1/index.ts';
import { READ_WRITE } from '../../src/memory/access.ts';
import { PFN_LIMIT, pfnOf } from '../../src/memory/address.ts';
import { groupPaths } from './sim-fixture.ts';

/** What the type1 driver does beyond the contract of all hosts (include/uapi/linux/vfio.h, "API for Type1 VFIO IOMMU"). */

const BASE = 0x1000;

describe('vfio-type1', () => {
  let kernel: SimKernel;
  let host: Type1Host;
  let memory: PortMemory;
  let pfn: number;

  function start(machine: SimMachine = {}): void {
    kernel = simKernel(machine);
    host = new Type1Host(kernel);
    memory = kernel.allocate(64 * 4096);
    pfn = pfnOf(memory.address);
  }
  beforeEach(() => start());
  afterEach(() => host.close());

  function attached() {
    const space = host.createSpace();
    const device = host.openDevice(groupPaths(kernel)[0]);
    expect(space.attach(device)).toBe(0);
    return { space, device };
  }

  test('the capability chain: ranges without the MSI window, page sizes, mappings left, dirty tracking', () => {
    const { space } = attached();
    expect(space.map(BASE, pfn, 1, READ_WRITE)).toBe(0);
    expect(space.info()).toEqual({
      pageSizes: 0x4020_1000n,
      ranges: [
        { first: 0, last: 0xfedff },
        { first: 0xfef00, last: 0xf_ffff_ffff },
      ],
      mappingsLeft: 65534,
      dirty: { pageSizes: 0x1000n, bitmapBytesMax: 1n << 28n },
    });
    expect(space.mappingLimit).toBe(65535);
  });

  test('a chain that is longer than the first try is asked for again', () => {
    const reserved = Array.from({ length: 60 }, (_, i) => ({ first: BigInt(i) * 0x10_0000n, last: BigInt(i) * 0x10_0000n + 0xfffn }));
    start({ iommus: [{ reserved }] });
    const { space } = attached();
    expect(space.apertures()).toHaveLength(60);
    expect(space.apertures()[0]).toEqual({ first: 1, last: 0xff });
  });

  test('beyond the mapping limit a map fails with the limit in the error, and one unmap makes room', () => {
    start({ dmaEntryLimit: 3 });
    const { space } = attached();
    for (let i = 0; i < 3; i++) expect(space.map(BASE + 2 * i, pfn + i, 1, READ_WRITE)).toBe(0);
    expect(space.mappingLimit).toBe(3);
    expect(space.map(BASE + 6, pfn + 3, 1, READ_WRITE)).toBe(-errno.ENOSPC);
    expect(space.error?.message).toMatch(/VFIO_IOMMU_MAP_DMA \[0x1006000, 0x1006fff\]: ENOSPC \(the container holds 3 mappings/);
    expect(space.unmap(BASE, 1)).toBe(0);
    expect(space.map(BASE + 6, pfn + 3, 1, READ_WRITE)).toBe(0);
  });

  test('the limit stays what it was when another group comes to what is mapped', () => {
    start({ dmaEntryLimit: 3, devices: [{ name: 'vfio0' }, { name: 'vfio1' }] });
    const { space } = attached();
    expect(space.map(BASE, pfn, 1, READ_WRITE)).toBe(0);
    expect(space.attach(host.openDevice(groupPaths(kernel)[1]))).toBe(0);
    expect([space.info().mappingsLeft, space.mappingLimit]).toEqual([2, 3]);
  });

  test('more mappings than the limit cannot be brought along by an attach', () => {
    start({ dmaEntryLimit: 3 });
    const space = host.createSpace();
    for (let i = 0; i < 4; i++) expect(space.map(BASE + 2 * i, pfn + i, 1, READ_WRITE)).toBe(0);
    const device = host.openDevice(groupPaths(kernel)[0]);
    expect(space.attach(device)).toBe(-errno.ENOSPC);
    expect(kernel.live()['type1Mappings'] ?? 0).toBe(0);
    expect(space.unmap(BASE, 1)).toBe(0);
    expect(space.attach(device)).toBe(0);
  });

  test('what is mapped outlives the last device, and comes back with the next', () => {
    const { space, device } = attached();
    expect(space.map(BASE, pfn, 2, READ_WRITE)).toBe(0);
    expect(space.map(BASE + 2, pfn + 2, 2, READ_WRITE)).toBe(0);
    expect(space.detach(device)).toBe(0);
    expect(space.unmap(BASE, 1), 'a part, while nothing is in the kernel').toBe(-errno.ENOENT);
    expect(space.map(BASE + 3, pfn, 1, READ_WRITE)).toBe(-errno.EEXIST);
    expect(space.unmap(BASE, 2)).toBe(0);
    expect(space.attach(device)).toBe(0);
    expect(kernel.device().hostPfn(BASE, READ_WRITE)).toBeLessThan(0);
    expect(kernel.device().hostPfn(BASE + 3, READ_WRITE)).toBe(pfn + 3);
  });

  test('dirty pages: all that is mapped, from the start of tracking on', () => {
    const { space } = attached();
    const bitmap = kernel.allocate(8);
    const bits = () => new BigUint64Array(bitmap.buffer)[0];
    expect(space.map(BASE + 1, pfn, 3, READ_WRITE)).toBe(0);
    expect(space.readDirty(BASE, 8, bitmap)).toBe(-errno.EINVAL);
    expect(space.error?.message).toContain('VFIO_IOMMU_DIRTY_PAGES [0x1000000, 0x1007fff]: EINVAL');
    expect(space.startDirtyTracking()).toBe(0);
    expect(space.readDirty(BASE, 8, bitmap)).toBe(0);
    expect(bits()).toBe(0b1110n);
    expect(space.readDirty(BASE, 3, bitmap), 'a mapping sticks out').toBe(-errno.EINVAL);
    new BigUint64Array(bitmap.buffer)[0] = 1n | (1n << 20n);
    expect(space.readDirty(BASE, 8, bitmap)).toBe(0);
    // Linux 7.3 shifts its own bitmap in place, and tells what an earlier answer has left behind the mapping (lock step with the real kernel).
    const leftOver = 1n << 4n;
    expect(bits(), 'what the caller has gathered stays').toBe(0b1111n | leftOver | (1n << 20n));
    new BigUint64Array(bitmap.buffer)[0] = 1n << 63n;
    expect(space.unmapReadingDirty(BASE + 1, 3, bitmap)).toBe(0);
    expect(bits()).toBe(0b111n | (0b11n << 3n) | (1n << 63n));
    expect(space.unmapReadingDirty(BASE + 1, 3, bitmap)).toBe(-errno.ENOENT);
    expect(() => space.readDirty(BASE, 4097 * 64, bitmap)).toThrow(RangeError);
    expect(space.stopDirtyTracking()).toBe(0);
    bitmap.release();
  });

  describe('dirty pages as a space tells them', () => {
    const told = (read: (visit: (first: number, last: number) => void) => number | undefined) => {
      const ranges: [number, number][] = [];
      const answer = read((first, last) => void ranges.push([first, last]));
      return { ranges, answer };
    };

    test('what the kernel does not say counts as written', () => {
      const { space } = attached();
      expect(space.map(BASE, pfn, 8, READ_WRITE)).toBe(0);
      expect(space.trackDirty(true)).toBe(0);
      const dirty = space.dirty!;
      kernel.hooks.fail({ kind: 'VFIO_IOMMU_DIRTY_PAGES', nth: 1, errno: errno.EIO });
      expect(told((visit) => void dirty.read(BASE, 8, visit)).ranges).toEqual([[BASE, BASE + 7]]);
      // The call that unmaps and tells fails: unmapped all the same.
      kernel.hooks.fail({ kind: 'VFIO_IOMMU_UNMAP_DMA', nth: 1, errno: errno.EIO });
      expect(told((visit) => dirty.unmap(BASE, 8, visit))).toEqual({ ranges: [[BASE, BASE + 7]], answer: 0 });
      expect(kernel.device().hostPfn(BASE, READ_WRITE)).toBeLessThan(0);
      expect([space.trackDirty(false), space.dirty]).toEqual([0, null]);
    });

    test('a container that begins anew and cannot remember forgets: all counts as written, and is asked for no more', () => {
      const { space, device } = attached();
      expect(space.map(BASE, pfn, 8, READ_WRITE)).toBe(0);
      expect(space.trackDirty(true)).toBe(0);
      const dirty = space.dirty!;
      expect(space.detach(device)).toBe(0);
      kernel.hooks.fail({ kind: 'VFIO_IOMMU_DIRTY_PAGES', nth: 1, errno: errno.EIO });
      expect(space.attach(device)).toBe(0);
      const asked = kernel.hooks.counts.get('VFIO_IOMMU_DIRTY_PAGES');
      expect(told((visit) => void dirty.read(BASE, 8, visit)).ranges).toEqual([[BASE, BASE + 7]]);
      expect(kernel.hooks.counts.get('VFIO_IOMMU_DIRTY_PAGES')).toBe(asked);
      expect(told((visit) => dirty.unmap(BASE, 8, visit))).toEqual({ ranges: [[BASE, BASE + 7]], answer: 0 });
    });

    test('the same where the first device comes after tracking was asked for', () => {
      const space = host.createSpace();
      expect(space.map(BASE, pfn, 8, READ_WRITE)).toBe(0);
      expect(space.trackDirty(true)).toBe(0);
      kernel.hooks.fail({ kind: 'VFIO_IOMMU_DIRTY_PAGES', nth: 1, errno: errno.EIO });
      expect(space.attach(host.openDevice(groupPaths(kernel)[0]))).toBe(0);
      const asked = kernel.hooks.counts.get('VFIO_IOMMU_DIRTY_PAGES');
      expect(told((visit) => void space.dirty!.read(BASE, 8, visit)).ranges).toEqual([[BASE, BASE + 7]]);
      expect(kernel.hooks.counts.get('VFIO_IOMMU_DIRTY_PAGES')).toBe(asked);
    });

    test('without a device nothing can be asked', () => {
      const { space, device } = attached();
      expect(space.detach(device)).toBe(0);
      const bitmap = kernel.allocate(8);
      expect(space.readDirty(BASE, 8, bitmap)).toBe(-errno.EINVAL);
      expect(space.error?.message).toMatch(/no device is attached/);
      bitmap.release();
    });
  });

  test('all of a 64-bit space is unmapped by one call', () => {
    const { space } = attached();
    for (let i = 0; i < 5; i++) expect(space.map(BASE + 3 * i, pfn + i, 2, READ_WRITE)).toBe(0);
    const before = host.calls.unmap;
    expect(space.unmap(0, PFN_LIMIT)).toBe(0);
    expect(host.calls.unmap).toBe(before + 1);
    expect(space.info().mappingsLeft).toBe(65535);
  });

  test('a device that narrows the apertures widens them again when it leaves', () => {
    start({
      iommus: [{}, { aperture: { first: 0n, last: 0x1ff_ffffn } }],
      devices: [
        { name: 'vfio0', iommu: 0 },
        { name: 'vfio1', iommu: 1 },
      ],
    });
    const space = host.createSpace();
    const [wide, narrow] = groupPaths(kernel).map((path) => host.openDevice(path));
    const lasts = [wide, narrow].map((device) => {
      expect(space.attach(device)).toBe(0);
      return space.apertures().at(-1)?.last;
    });
    expect(lasts).toEqual([0xf_ffff_ffff, 0x1fff]);
    expect(space.detach(narrow)).toBe(0);
    expect(space.apertures().at(-1)?.last).toBe(0xf_ffff_ffff);
    expect(space.map(0x2000, pfn, 1, READ_WRITE)).toBe(0);
    expect(kernel.device('vfio0').hostPfn(0x2000, READ_WRITE)).toBe(pfn);
  });

  test('a device behind another IOMMU reaches what was mapped before it came', () => {
    start({ iommus: [{}, {}], devices: [{ name: 'vfio0' }, { name: 'vfio1', iommu: 1 }] });
    const { space } = attached();
    expect(space.map(BASE, pfn, 2, READ_WRITE)).toBe(0);
    expect(space.attach(host.openDevice(groupPaths(kernel)[1]))).toBe(0);
    expect(kernel.device('vfio1').hostPfn(BASE + 1, READ_WRITE)).toBe(pfn + 1);
    expect(space.unmap(BASE, 2)).toBe(0);
    expect(kernel.device('vfio1').hostPfn(BASE + 1, READ_WRITE)).toBeLessThan(0);
  });

  test('a device that its container does not let go is silenced only where no other reaches what is mapped', () => {
    start({ devices: [{ name: 'vfio0' }, { name: 'vfio1' }] });
    const space = host.createSpace();
    const [held, other] = groupPaths(kernel).map((path, i) => host.openDevice(`${path}#vfio${i}`));
    expect(space.map(BASE, pfn, 1, READ_WRITE)).toBe(0);
    for (const device of [held, other]) expect(space.attach(device)).toBe(0);
    const region = kernel.mmap(held.fd, 4096, 0n) as PortMemory;
    expect(held.close()?.message).toMatch(/EBUSY/);
    expect(kernel.device('vfio1').hostPfn(BASE, READ_WRITE)).toBe(pfn);
    region.release();
  });

  test('devices of one group go together', () => {
    start({
      devices: [
        { name: 'vfio0', group: 9 },
        { name: 'vfio1', group: 9 },
      ],
    });
    const [first, second] = groupPaths(kernel).map((path) => host.openDevice(path));
    const [a, b] = [host.createSpace(), host.createSpace()];
    expect(a.attach(first)).toBe(0);
    expect(b.attach(second)).toBe(-errno.EBUSY);
    expect(b.error?.message).toContain('another device of /dev/vfio/9');
    expect(a.attach(second)).toBe(0);
    expect(a.map(BASE, pfn, 1, READ_WRITE)).toBe(0);
    expect(a.detach(first)).toBe(0);
    expect(kernel.device('vfio1').hostPfn(BASE, READ_WRITE)).toBe(pfn);
    expect(a.detach(second)).toBe(0);
    expect(b.attach(second)).toBe(0);
    first.close();
    expect(kernel.device('vfio1').hostPfn(BASE, READ_WRITE)).toBeLessThan(0);
  });

  test('a kernel without isolated interrupts, or without VFIO, is refused in words', () => {
    start({ iommus: [{ isolatedMsi: false }] });
    const space = host.createSpace();
    expect(space.attach(host.openDevice(groupPaths(kernel)[0]))).toBe(-errno.EPERM);
    expect(space.error?.message).toMatch(/VFIO_SET_IOMMU: EPERM .*allow_unsafe_interrupts/);
    kernel.nodes.delete('/dev/vfio/vfio');
    expect(() => new Type1Host(kernel)).toThrow(/open \/dev\/vfio\/vfio: ENOENT .*not loaded/);
  });

  test('a region that is still mapped holds a closed device in the container: it reaches nothing, and what holds it is said', () => {
    const space = host.createSpace();
    const [path] = groupPaths(kernel);
    const device = host.openDevice(`${path}#${kernel.device().name}`);
    expect(space.map(BASE, pfn, 1, READ_WRITE)).toBe(0);
    expect(space.attach(device)).toBe(0);
    const region = kernel.mmap(device.fd, 4096, 0n) as PortMemory;
    expect(device.close()?.message).toMatch(/VFIO_GROUP_UNSET_CONTAINER: EBUSY .*a region that is still mapped/);
    expect(kernel.device().hostPfn(BASE, READ_WRITE)).toBeLessThan(0);
    expect(device.close()).toBe(null);
    region.release();
    const again = host.openDevice(`${path}#${kernel.device().name}`);
    expect(space.attach(again)).toBe(0);
    expect(kernel.device().hostPfn(BASE, READ_WRITE)).toBe(pfn);
    expect(again.close()).toBe(null);
  });

  test('a device that the container does not let go of is where it was, and its file is open again', () => {
    const { space, device } = attached();
    expect(space.map(BASE, pfn, 1, READ_WRITE)).toBe(0);
    kernel.hooks.fail({ kind: 'VFIO_GROUP_UNSET_CONTAINER', nth: 1, errno: errno.EIO });
    expect(space.detach(device)).toBe(-errno.EIO);
    expect([device.attachment, device.fd >= 0, kernel.device().hostPfn(BASE, READ_WRITE)]).toEqual([space, true, pfn]);
    expect(space.error?.message).toMatch(/UNSET_CONTAINER: EIO/);
    expect([space.detach(device), device.attachment]).toEqual([0, null]);
  });

  test('a container that kept its group after the last device is asked again by the device, which was opened anew', () => {
    const space = host.createSpace();
    const [path] = groupPaths(kernel);
    const device = host.openDevice(`${path}#${kernel.device().name}`);
    expect(space.map(BASE, pfn, 1, READ_WRITE)).toBe(0);
    expect(space.attach(device)).toBe(0);
    const other = host.openDevice(path);
    kernel.hooks.fail({ kind: 'VFIO_GROUP_UNSET_CONTAINER', nth: 1, errno: errno.EIO });
    expect(device.close()?.message).toMatch(/UNSET_CONTAINER: EIO/);
    expect(other.attachment, 'what the group reaches').toBe(other.group);
    kernel.hooks.fail({ kind: 'VFIO_GROUP_UNSET_CONTAINER', nth: 1, errno: errno.EIO });
    expect([other.detach(), other.attachment]).toEqual([-errno.EIO, other.group]);
    expect([other.detach(), other.attachment]).toEqual([0, null]);
    expect(kernel.device().translation).toBe(null);
  });

  test('a container that lets go of nothing, and a device that cannot be opened again: all is closed, and the reason is said', () => {
    const { space, device } = attached();
    kernel.hooks.fail({ kind: 'VFIO_GROUP_UNSET_CONTAINER', nth: 1, errno: errno.EIO, times: Infinity });
    kernel.hooks.fail({ kind: 'VFIO_GROUP_GET_DEVICE_FD', nth: 1, errno: errno.ENODEV, times: Infinity });
    expect(device.close()?.message).toMatch(/VFIO_GROUP_UNSET_CONTAINER: EIO/);
    expect(kernel.device().hostPfn(BASE, READ_WRITE)).toBeLessThan(0);
    space.close();
    host.close();
    expect(kernel.live()).toMatchObject({ descriptors: 0, domains: 0, pinnedBytes: 0 });
  });

  test('an embedder’s mistakes are TypeErrors', () => {
    const { space, device } = attached();
    const other = new Type1Host(simKernel());
    expect(() =>
      space.attach({
        name: 'x',
        iommuGroup: null,
        attachment: null,
        closed: false,
        detach: () => 0,
        close: () => null,
        [Symbol.dispose]() {},
      }),
    ).toThrow(TypeError);
    other.close();
    device.close();
    host.close();
    expect(() => host.createSpace()).toThrow(TypeError);
    expect(() => host.openDevice('/dev/vfio/1000')).toThrow(TypeError);
  });
});
