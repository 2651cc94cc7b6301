import { describe, expect, test } from 'vitest';
import { errno } from '../../src/host/errno.ts';
import { IommufdHost } from '../../src/host/iommufd/index.ts';
import type { PortMemory } from '../../src/host/port.ts';
import { DMA_BLOCKED, DMA_FORBIDDEN, DMA_UNMAPPED, simKernel } from '../../src/host/sim/index.ts';
import { READ, READ_WRITE, WRITE } from '../../src/memory/access.ts';
import { pfnOf } from '../../src/memory/address.ts';

/** The simulated machine beneath all kernel interfaces: descriptors, memory, hooks, devices, what can be configured. */

describe('the simulated process', () => {
  test('descriptors are the lowest that are free, from 3', () => {
    const kernel = simKernel();
    expect([kernel.open('/dev/iommu'), kernel.open('/dev/iommu'), kernel.eventfd()]).toEqual([3, 4, 5]);
    expect(kernel.close(4)).toBe(0);
    expect(kernel.close(4)).toBe(-errno.EBADF);
    expect(kernel.open('/dev/iommu')).toBe(4);
    expect(kernel.open('/dev/none')).toBe(-errno.ENOENT);
    const memory = kernel.allocate(8);
    expect(kernel.ioctl(9, 0, memory)).toBe(-errno.EBADF);
    expect(kernel.read(9, memory, 8)).toBe(-errno.EBADF);
  });

  test('memory is zeroed, page-aligned, and ends where it ends', () => {
    const kernel = simKernel();
    const one = kernel.allocate(100);
    const two = kernel.allocate(0x40_0000);
    expect([one.bytes, one.address % 4096n, two.address % 0x20_0000n]).toEqual([4096, 0n, 0n]);
    expect(new Uint8Array(two.buffer).every((byte) => byte === 0)).toBe(true);
    expect(kernel.process.view(one.address, 4096)).not.toBeNull();
    expect(kernel.process.view(one.address + 4000n, 97)).toBeNull();
    expect(kernel.process.view(one.address - 1n, 1)).toBeNull();
    one.release();
    one.release();
    expect(kernel.process.view(one.address, 1)).toBeNull();
    expect(() => kernel.allocate(0)).toThrow(RangeError);
  });

  test('what is copied to the process goes up to where its memory ends, and says whether that was all', () => {
    const kernel = simKernel();
    const one = kernel.allocate(4096);
    const end = one.address + 4096n;
    expect(kernel.process.copyOut(end - 4n, new Uint8Array(8).fill(7))).toBe(false);
    expect([...new Uint8Array(one.buffer, 4090)]).toEqual([0, 0, 7, 7, 7, 7]);
    expect(kernel.process.copyOut(end - 4n, new Uint8Array(4).fill(8))).toBe(true);
    expect([kernel.process.copyOut(end, new Uint8Array(1)), kernel.process.copyOut(end, new Uint8Array(0))]).toEqual([false, true]);
  });

  test('an eventfd counts what was written until it is read', () => {
    const kernel = simKernel();
    const fd = kernel.eventfd();
    const memory = kernel.allocate(8);
    const value = new BigUint64Array(memory.buffer, 0, 1);
    expect(kernel.poll(fd, 0)).toBe(0);
    expect(kernel.read(fd, memory, 8)).toBe(-errno.EAGAIN);
    for (value[0] = 3n; value[0] < 5n; value[0]++) expect(kernel.write(fd, memory, 8)).toBe(8);
    expect(kernel.poll(fd, 0)).toBe(1);
    expect(kernel.read(fd, memory, 8)).toBe(8);
    expect(value[0]).toBe(7n);
    expect(kernel.write(fd, memory, 4)).toBe(-errno.EINVAL);
    expect(kernel.write(fd, memory, 16), 'eight bytes and no more').toBe(-errno.EINVAL);
    value[0] = 2n ** 64n - 1n;
    expect(kernel.write(fd, memory, 8)).toBe(-errno.EINVAL);
    value[0]--;
    expect(kernel.write(fd, memory, 8)).toBe(8);
    expect(kernel.write(fd, memory, 8), 'it would count too far').toBe(-errno.EAGAIN);
    expect(kernel.read(fd, { ...memory, address: 8n }, 8), 'no memory').toBe(-errno.EFAULT);
    expect(kernel.write(fd, memory, 8)).toBe(8);
    expect(kernel.read(fd, memory, 8192), 'what is read fits, though the buffer is not all there').toBe(8);
  });

  test('a file’s bytes are the same wherever it is mapped, and a device reaches them too', () => {
    const kernel = simKernel();
    kernel.createFile('/dev/shm/ram', 0x2000);
    const [first, second] = [kernel.open('/dev/shm/ram'), kernel.open('/dev/shm/ram')];
    const one = kernel.mmap(first, 0x2000, 0n) as PortMemory;
    const two = kernel.mmap(second, 0x2000, 0n) as PortMemory;
    new Uint8Array(one.buffer)[0x1001] = 7;
    expect(new Uint8Array(two.buffer)[0x1001]).toBe(7);
    expect(kernel.mmap(first, 0x3000, 0n)).toBe(-errno.EINVAL);
    expect(kernel.mmap(first, 0x1000, 1n)).toBe(-errno.EINVAL);
    const mapped = kernel.live().mappings;
    expect(() => kernel.mmap(first, 0x1000, 0n)).toThrow(/part of a file/);
    expect(kernel.live().mappings, 'a mapping that nobody gets').toBe(mapped);
    const host = new IommufdHost(kernel);
    const space = host.createSpace();
    expect(space.mapFile(0x10, first, 0x1000n, 1, READ)).toBe(0);
    expect(space.attach(host.openDevice(kernel.device().path))).toBe(0);
    const byte = new Uint8Array(1);
    expect(kernel.device().dmaRead(0x1_0001n, byte)).toBe(0);
    expect(byte[0]).toBe(7);
    expect(space.mapFile(0x10, first, 0n, 1, READ)).toBe(-errno.EEXIST);
    expect(space.error?.message).toBe('IOMMU_IOAS_MAP_FILE [0x10000, 0x10fff]: EEXIST');
  });
});

describe('hooks', () => {
  test('calls are seen before and after, and counted by kind', () => {
    const kernel = simKernel();
    const seen: string[] = [];
    const off = kernel.hooks.observe({
      before: ({ kind }) => seen.push(`${kind} starts`),
      after: ({ kind, number }, result) => seen.push(`${kind} ${number}: ${result}`),
    });
    const host = new IommufdHost(kernel);
    const space = host.createSpace();
    off();
    space.close();
    expect(seen).toEqual(['open starts', 'open 1: 3', 'IOMMU_IOAS_ALLOC starts', 'IOMMU_IOAS_ALLOC 2: 0']);
    expect(Object.fromEntries(kernel.hooks.counts)).toEqual({ open: 1, IOMMU_IOAS_ALLOC: 1, IOMMU_DESTROY: 1 });
  });

  test('the nth call of a kind fails, once; a failure can be taken back', () => {
    const kernel = simKernel();
    const host = new IommufdHost(kernel);
    kernel.hooks.fail({ kind: 'IOMMU_IOAS_ALLOC', nth: 2, errno: errno.ENOMEM });
    const takenBack = kernel.hooks.fail({ nth: 1, errno: errno.EIO });
    takenBack();
    host.createSpace();
    expect(() => host.createSpace()).toThrow('IOMMU_IOAS_ALLOC: ENOMEM');
    host.createSpace();
    expect(kernel.live()).toMatchObject({ ioas: 2 });
  });
});

describe('devices and their IOMMUs', () => {
  /** A host on a machine, a page of memory, and spaces for it. */
  function machine(config: Parameters<typeof simKernel>[0]) {
    const kernel = simKernel(config);
    const host = new IommufdHost(kernel);
    const memory = kernel.allocate(4096);
    return { kernel, host, memory, pfn: pfnOf(memory.address), device: (name: string) => host.openDevice(kernel.device(name).path) };
  }

  test('a probe says where a DMA would land, and what would refuse it', () => {
    const { kernel, host, pfn, device } = machine({});
    const sim = kernel.device();
    expect(sim.hostPfn(0x10, READ)).toBe(DMA_BLOCKED);
    const space = host.createSpace();
    space.map(0x10, pfn, 1, READ);
    space.attach(device('vfio0'));
    expect(sim.hostPfn(0x10, READ)).toBe(pfn);
    expect(sim.hostPfn(0x10, WRITE)).toBe(DMA_FORBIDDEN);
    expect(sim.hostPfn(0x11, READ)).toBe(DMA_UNMAPPED);
    expect(sim.hostPfn(0x10, READ, 1)).toBe(DMA_BLOCKED);
  });

  test('memory stays while a device can reach it', () => {
    const { kernel, host, memory, pfn, device } = machine({});
    const space = host.createSpace();
    space.attach(device('vfio0'));
    space.map(0x10, pfn, 1, READ_WRITE);
    memory.release();
    expect(kernel.device().dmaWrite(0x1_0000n, Uint8Array.of(9))).toBe(0);
    expect(new Uint8Array(memory.buffer)[0]).toBe(9);
    const before = kernel.live();
    space.unmap(0x10, 1);
    expect(kernel.live()).toMatchObject({ frames: before['frames'] - 1, pinnedBytes: 0 });
  });

  test('pinning stops at the limit, and copies are pinned once', () => {
    const { kernel, host, pfn, device } = machine({ pinLimit: 4096, devices: [{ name: 'a' }, { name: 'b' }] });
    const [a, b] = [host.createSpace(), host.createSpace()];
    expect(a.attach(device('a'))).toBe(0);
    expect(a.map(1, pfn, 1, READ)).toBe(0);
    expect(a.map(2, pfn, 1, READ)).toBe(-errno.ENOMEM);
    expect(b.copy(a, 1, 1, READ)).toBe(0);
    expect(b.attach(device('b'))).toBe(0);
    expect(kernel.pinnedBytes).toBe(4096);
  });

  test('aperture, page sizes and reserved ranges are the machine’s', () => {
    const iommu = { aperture: { first: 0x10_0000n, last: 0xfff_ffffn }, reserved: [{ first: 0x80_0000n, last: 0x8f_ffffn }] };
    const { host, device } = machine({ iommus: [iommu] });
    const space = host.createSpace();
    expect(space.apertures()).toEqual([{ first: 0, last: 2 ** 52 - 1 }]);
    space.attach(device('vfio0'));
    expect(space.apertures()).toEqual([
      { first: 0x100, last: 0x7ff },
      { first: 0x900, last: 0xffff },
    ]);
    const coarse = machine({ iommus: [{ pageSizes: 0x1_0000n }] });
    expect(coarse.host.createSpace().attach(coarse.device('vfio0'))).toBe(-errno.EINVAL);
  });

  test('however many ranges there are, all are told: the kernel says how many did not fit', () => {
    for (const count of [63, 64, 65, 100]) {
      const reserved = Array.from({ length: count }, (_, i) => ({ first: BigInt(i) << 20n, last: (BigInt(i) << 20n) + 0xfffn }));
      const kernel = simKernel({ iommus: [{ reserved }] });
      const host = new IommufdHost(kernel);
      const space = host.createSpace();
      expect(space.attach(host.openDevice(kernel.device().path))).toBe(0);
      expect(space.apertures()).toHaveLength(count);
      host.close();
    }
  });

  test('a page that an aperture or a reserved range cuts is no page of the space', () => {
    const iommu = { aperture: { first: 0x10_0800n, last: 0xfff_f7ffn }, reserved: [{ first: 0x80_0800n, last: 0x8f_f7ffn }] };
    const { host, device, pfn } = machine({ iommus: [iommu] });
    const space = host.createSpace();
    space.attach(device('vfio0'));
    expect(space.apertures()).toEqual([
      { first: 0x101, last: 0x7ff },
      { first: 0x900, last: 0xfffe },
    ]);
    for (const page of [0x100, 0x800, 0x8ff, 0xffff]) expect(space.map(page, pfn, 1, READ), `page ${page}`).toBe(-errno.EINVAL);
    for (const page of [0x101, 0x7ff, 0x900, 0xfffe]) expect(space.map(page, pfn, 1, READ), `page ${page}`).toBe(0);
  });

  test('a copy that is not pinned, for it fails half-way, leaves nothing pinned', () => {
    const { kernel, host, device } = machine({ pinLimit: 3 * 4096, devices: [{ name: 'a' }, { name: 'b' }] });
    const pages = [1, 2].map(() => pfnOf(kernel.allocate(2 * 4096).address));
    const [a, b] = [host.createSpace(), host.createSpace()];
    for (const [i, page] of pages.entries()) expect(a.map(1 + 2 * i, page, 2, READ)).toBe(0);
    expect(b.attach(device('b'))).toBe(0);
    expect(b.copy(a, 1, 4, READ)).toBe(-errno.ENOMEM);
    expect(kernel.pinnedBytes).toBe(0);
    for (const page of [1, 3]) expect(kernel.device('b').hostPfn(page, READ)).toBe(DMA_UNMAPPED);
    expect(b.copy(a, 1, 2, READ)).toBe(0);
    expect(kernel.pinnedBytes).toBe(2 * 4096);
  });

  test('devices behind two IOMMUs share a space, each with its own limits', () => {
    const iommus = [{}, { aperture: { first: 0n, last: 0xffff_ffffn } }];
    const { kernel, host, pfn, device } = machine({ iommus, devices: [{ name: 'a' }, { name: 'b', iommu: 1 }] });
    const space = host.createSpace();
    space.map(0x10, pfn, 1, READ);
    expect(space.attach(device('a'))).toBe(0);
    expect(space.attach(device('b'))).toBe(0);
    expect(space.apertures().at(-1)?.last).toBe(0xfffff);
    for (const name of ['a', 'b']) expect(kernel.device(name).hostPfn(0x10, READ)).toBe(pfn);
    expect(kernel.live()).toMatchObject({ domains: 2, pinnedBytes: 4096 });
    expect(() => simKernel({ devices: [{ name: 'a', iommu: 1 }] })).toThrow(RangeError);
    expect(() => kernel.device('c')).toThrow(RangeError);
  });

  test('a group’s devices go together: one owner, one page table', () => {
    const devices = [
      { name: 'a', group: 7 },
      { name: 'b', group: 7 },
    ];
    const { kernel, host, pfn, device } = machine({ devices });
    const [one, two] = [host.createSpace(), host.createSpace()];
    const [a, b] = [device('a'), device('b')];
    one.map(0x10, pfn, 1, READ);
    expect(one.attach(a)).toBe(0);
    expect(kernel.device('b').hostPfn(0x10, READ)).toBe(pfn);
    expect(two.attach(b)).toBe(-errno.EINVAL);
    expect(one.attach(b)).toBe(0);
    expect(two.attach(a)).toBe(0);
    expect(kernel.device('b').hostPfn(0x10, READ)).toBe(DMA_UNMAPPED);
    const other = new IommufdHost(kernel);
    const openInOther = () => other.openDevice(kernel.device('b').path);
    expect(openInOther, 'it is open').toThrow(/EINVAL/);
    b.close();
    expect(openInOther).toThrow(/EPERM \(another iommufd owns the IOMMU group/);
    host.close();
    expect(other.openDevice(kernel.device('b').path).name).toContain('b');
  });

  test('a region that is still mapped holds a closed device’s file: it is detached before', () => {
    const { kernel, host, device } = machine({});
    const vfio = device('vfio0');
    const space = host.createSpace();
    const memory = kernel.allocate(4096);
    expect(space.map(0x10, pfnOf(memory.address), 1, READ_WRITE)).toBe(0);
    expect(space.attach(vfio)).toBe(0);
    const region = kernel.mmap(vfio.fd, 4096, 0n) as PortMemory;
    const { id } = vfio;
    vfio.close();
    expect(kernel.device().dmaWrite(0x1_0000n, Uint8Array.of(1))).toBe(DMA_BLOCKED);
    expect(() => host.openDevice(kernel.device().path), `object ${id} is bound still`).toThrow(/EINVAL/);
    region.release();
    const again = host.openDevice(kernel.device().path);
    expect(space.attach(again)).toBe(0);
    // The descriptor alone, as a process that is killed: the mapping keeps the DMA going.
    const held = kernel.mmap(again.fd, 4096, 0n) as PortMemory;
    kernel.close(again.fd);
    expect(kernel.device().dmaWrite(0x1_0000n, Uint8Array.of(1))).toBe(0);
    held.release();
    expect(kernel.device().dmaWrite(0x1_0000n, Uint8Array.of(1))).toBe(DMA_BLOCKED);
  });

  test('a device that the kernel does not detach is closed all the same', () => {
    const { kernel, host, device } = machine({});
    const vfio = device('vfio0');
    expect(host.createSpace().attach(vfio)).toBe(0);
    kernel.hooks.fail({ kind: 'VFIO_DEVICE_DETACH_IOMMUFD_PT', nth: 1, errno: errno.EIO });
    expect(vfio.close()?.message).toMatch(/VFIO_DEVICE_DETACH_IOMMUFD_PT: EIO .*still mapped/);
    expect([vfio.closed, kernel.device().dmaWrite(0n, Uint8Array.of(1))]).toEqual([true, DMA_BLOCKED]);
    vfio.close();
    host.close();
    expect(kernel.live()['descriptors']).toBe(0);
  });

  test('without interrupt isolation nobody gets the devices', () => {
    const { device } = machine({ iommus: [{ isolatedMsi: false }] });
    expect(() => device('vfio0')).toThrow(/EPERM .*iommufd.allow_unsafe_interrupts=1/);
  });

  test('reset closes everything, and the machine can be used again', () => {
    const { kernel, host, pfn, device } = machine({});
    const space = host.createSpace();
    space.map(0x10, pfn, 1, READ);
    space.attach(device('vfio0'));
    expect(kernel.save()).toMatchObject({ live: { ioas: 1, domains: 1 } });
    kernel.reset();
    expect(kernel.live()).toMatchObject({ descriptors: 0, domains: 0, pinnedBytes: 0, groupsOwned: 0 });
    expect(kernel.device().hostPfn(0x10, READ)).toBe(DMA_BLOCKED);
    const again = new IommufdHost(kernel);
    expect(again.createSpace().attach(again.openDevice(kernel.device().path))).toBe(0);
  });
});
