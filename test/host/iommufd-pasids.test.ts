import { describe, expect, test } from 'vitest';
import { errno } from '../../src/host/errno.ts';
import { IommufdHost } from '../../src/host/iommufd/index.ts';
import type { PortMemory } from '../../src/host/port.ts';
import { DMA_BLOCKED, DMA_UNMAPPED, type IommuConfig, simKernel } from '../../src/host/sim/index.ts';
import { READ_WRITE } from '../../src/memory/access.ts';
import { pfnOf } from '../../src/memory/address.ts';

/* PASIDs as devices of their own, over the simulated kernel (iommufd_hwpt_pasid_compat: what stands beside a PASID must allow it). */

const ATTACH = 'VFIO_DEVICE_ATTACH_IOMMUFD_PT';
const DETACH = 'VFIO_DEVICE_DETACH_IOMMUFD_PT';
const PAGES = 8;

function start(config: IommuConfig = { pasidLog2: 8 }, pageRequests = false) {
  const kernel = simKernel({ iommus: [config], devices: [{ name: 'vfio0', pageRequests }] });
  const host = new IommufdHost(kernel);
  const ram = kernel.allocate(PAGES * 4096);
  new Uint8Array(ram.buffer).forEach((_, i, bytes) => {
    bytes[i] = i >> 12;
  });
  const device = host.openDevice(kernel.device().path);
  /** What the first byte of the page is to a request, or its fault. */
  const read = (page: number, pasid = -1) => {
    const byte = new Uint8Array(1);
    return kernel.device().dmaRead(BigInt(page) << 12n, byte, pasid) || byte[0];
  };
  /** A space whose page 1 is RAM's page `to`. */
  const spaceTo = (to: number) => {
    const space = host.createSpace();
    expect(space.map(1, pfnOf(ram.address) + to, 1, READ_WRITE)).toBe(0);
    return space;
  };
  return { kernel, host, device, read, spaceTo };
}

describe('a PASID', () => {
  test('reaches the space that it is attached to, and nothing else does; the device stays where it is', () => {
    const { host, device, read, spaceTo } = start();
    const [one, other] = [spaceTo(3), spaceTo(5)];
    expect(one.attach(device)).toBe(0);
    const process = host.pasids.open(device, 7);
    expect([process.attachment, process.iommuGroup, read(1, 7)]).toEqual([null, null, DMA_BLOCKED]);
    expect(other.attach(process)).toBe(0);
    expect([read(1), read(1, 7), read(1, 8)]).toEqual([3, 5, DMA_BLOCKED]);
    expect([device.attachment, process.attachment]).toEqual([one, other]);
    // Both may be in one space, and each can leave it.
    expect(one.attach(process)).toBe(0);
    expect([read(1), read(1, 7)]).toEqual([3, 3]);
    expect(other.attach(device)).toBe(0);
    expect([read(1), read(1, 7)]).toEqual([5, 3]);
    expect(device.detach()).toBe(0);
    expect([read(1), read(1, 7)]).toEqual([DMA_BLOCKED, 3]);
    expect(one.detach(process)).toBe(0);
    expect(read(1, 7)).toBe(DMA_BLOCKED);
    host.close();
  });

  test('is attached before its device is, and then the device has a page table that allows it', () => {
    const { host, device, read, spaceTo } = start();
    const process = host.pasids.open(device, 7);
    expect(spaceTo(5).attach(process)).toBe(0);
    expect(spaceTo(3).attach(device)).toBe(0);
    expect([read(1), read(1, 7)]).toEqual([3, 5]);
    host.close();
  });

  test('sees what is mapped and unmapped after it was attached', () => {
    const { host, device, read, spaceTo } = start();
    const space = spaceTo(3);
    const process = host.pasids.open(device, 7);
    expect(space.attach(process)).toBe(0);
    expect(space.unmap(1, 1)).toBe(0);
    expect(read(1, 7)).toBe(DMA_UNMAPPED);
    host.close();
  });

  test('is refused by name where there are none, or none so wide', () => {
    const wide = start();
    expect(wide.host.pasids.refuses(wide.device, 255)).toBeNull();
    expect(wide.host.pasids.refuses(wide.device, 256)).toMatch(/its PASIDs have 8 bits/);
    expect(wide.host.pasids.refuses(wide.host.pasids.open(wide.device, 1), 256)).toMatch(/8 bits/);
    expect(wide.host.pasids.refuses(wide.device, 0)).toMatch(/IOMMU_NO_PASID/);
    const without = start({});
    expect(without.host.pasids.refuses(without.device, 1)).toMatch(/vfio0: .* known to have PASIDs/);
    const failing = start();
    failing.kernel.hooks.fail({ kind: 'IOMMU_GET_HW_INFO', nth: 1, errno: errno.EIO });
    expect(failing.host.pasids.refuses(failing.device, 1)).toMatch(/IOMMU_GET_HW_INFO: EIO/);
  });

  test('whose attach fails stays where it was, and so does its device', () => {
    const { kernel, host, device, read, spaceTo } = start();
    const [one, other] = [spaceTo(3), spaceTo(5)];
    expect(one.attach(device)).toBe(0);
    const process = host.pasids.open(device, 7);
    // The device's table is exchanged, then the PASID is attached.
    for (const nth of [1, 2]) {
      kernel.hooks.fail({ kind: ATTACH, nth, errno: errno.ENOMEM });
      expect(other.attach(process)).toBe(-errno.ENOMEM);
      kernel.hooks.reset();
      expect([read(1), read(1, 7), process.attachment]).toEqual([3, DMA_BLOCKED, null]);
    }
    expect(other.attach(process)).toBe(0);
    kernel.hooks.fail({ kind: ATTACH, nth: 1, errno: errno.ENOMEM });
    expect(one.attach(process)).toBe(-errno.ENOMEM);
    expect([read(1, 7), process.attachment]).toEqual([5, other]);
    host.close();
  });

  test('goes with its device, and takes it along where the kernel does not let it go', () => {
    const { kernel, host, device, read, spaceTo } = start();
    const space = spaceTo(3);
    const [one, other] = [7, 8].map((pasid) => host.pasids.open(device, pasid));
    for (const process of [one, other, device]) expect(space.attach(process)).toBe(0);
    expect(one.close()).toBeNull();
    expect([read(1, 7), one.closed, device.closed]).toEqual([DMA_BLOCKED, true, false]);
    expect(space.attach(one)).toBe(-errno.ENODEV);
    kernel.hooks.fail({ kind: DETACH, nth: 1, errno: errno.EIO });
    expect(other.close()?.message).toMatch(/PASID 8: the device was closed/);
    expect([device.closed, other.attachment, read(1, 8), read(1)]).toEqual([true, null, DMA_BLOCKED, DMA_BLOCKED]);
    host.close();
    expect(kernel.live()['descriptors']).toBe(0);
  });

  test('that was opened anew is not forgotten when the handle of before is closed', () => {
    const { host, device, spaceTo } = start();
    const [before, now] = [host.pasids.open(device, 7), host.pasids.open(device, 7)];
    expect(spaceTo(3).attach(now)).toBe(0);
    expect(before.close()).toBeNull();
    expect(device.processes.get(7)).toBe(now);
    host.close();
  });

  test('whose detach failed is detached with its device', () => {
    const { kernel, host, device, spaceTo } = start();
    const process = host.pasids.open(device, 7);
    expect(spaceTo(3).attach(process)).toBe(0);
    kernel.hooks.fail({ kind: DETACH, nth: 1, errno: errno.EIO });
    expect(process.detach()).toBe(-errno.EIO);
    const before = kernel.hooks.counts.get(DETACH)!;
    expect(device.close()).toBeNull();
    expect(kernel.hooks.counts.get(DETACH), 'the PASID, and what its device stood at').toBe(before + 1);
    host.close();
  });

  test('is blocked by the close of its device, though a region that is still mapped holds that', () => {
    const { kernel, host, device, read, spaceTo } = start();
    const space = spaceTo(3);
    expect(space.attach(host.pasids.open(device, 7))).toBe(0);
    const region = kernel.mmap(device.fd, 4096, 0n);
    expect(device.close()).toBeNull();
    expect(read(1, 7)).toBe(DMA_BLOCKED);
    (region as PortMemory).release();
    host.close();
  });

  test('leaves nothing behind: spaces with tables for PASIDs are freed', () => {
    const { kernel, host, device, spaceTo } = start();
    const before = kernel.live();
    const space = spaceTo(3);
    const process = host.pasids.open(device, 7);
    for (const who of [process, device]) expect(space.attach(who)).toBe(0);
    expect(() => space.close()).toThrow(/EBUSY/);
    for (const who of [process, device]) expect(space.detach(who)).toBe(0);
    space.close();
    expect(kernel.live()).toEqual(before);
    host.close();
  });

  test('a table for PASIDs that nobody comes by is freed at once', () => {
    const { kernel, host, device, spaceTo } = start();
    const space = spaceTo(3);
    const process = host.pasids.open(device, 7);
    const before = kernel.live();
    kernel.hooks.fail({ kind: ATTACH, nth: 1, errno: errno.ENOMEM });
    expect(space.attach(process)).toBe(-errno.ENOMEM);
    expect(kernel.hooks.counts.get('IOMMU_HWPT_ALLOC')).toBe(1);
    expect(kernel.live()).toEqual(before);
    host.close();
  });

  test('asks for pages, and what asked is the PASID', () => {
    const { kernel, host, device } = start({ pasidLog2: 8 }, true);
    const queue = host.pageRequests.createQueue();
    const space = host.createSpace({ pageRequests: queue });
    const process = host.pasids.open(device, 7);
    for (const who of [device, process]) expect(space.attach(who)).toBe(0);
    for (const pasid of [7, -1]) kernel.device().dmaRead(0x1000n, new Uint8Array(1), pasid);
    const [first, second] = queue.read();
    expect([first.device, first.pasid, second.device, second.pasid]).toEqual([process, 7, device, -1]);
    // A PASID that has moved has its answer; the device's request waits on.
    expect(space.detach(process)).toBe(0);
    queue.respond(first.cookie, true);
    queue.respond(second.cookie, true);
    expect(kernel.device().responses).toEqual([1, 0]);
    host.close();
  });
});
