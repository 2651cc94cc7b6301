import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { sendThroughDevice } from '../../../examples/generic-user.ts';
import type { Host, HostDevice, HostSpace } from '../../../src/host/host.ts';
import { openKernelPort } from '../../../src/host/kernel/index.ts';
import type { PortMemory } from '../../../src/host/port.ts';
import { openHost } from '../../../src/host/registry.ts';
import { READ, READ_WRITE } from '../../../src/memory/access.ts';
import { pfnOf } from '../../../src/memory/address.ts';
import { bindToVfio, Edu, TESTDEV_PATTERN, Testdev, type VfioFunction } from './pci.ts';

/* QEMU's own devices do DMA through what the drivers mapped; what is in memory afterwards is the judge. */

const port = await openKernelPort();
const edu = bindToVfio('0000:00:05.0');
const testdev = bindToVfio('0000:00:06.0');
const fdOf = (device: HostDevice) => (device as HostDevice & { readonly fd: number }).fd;

const nodes: Readonly<Record<string, (device: VfioFunction) => string>> = {
  iommufd: ({ cdev }) => cdev,
  'vfio-type1': ({ group }) => group,
};

describe.each(Object.keys(nodes))('%s', (kind) => {
  const IOVA = 0x100_0000n;
  let host: Host;
  let memory: PortMemory;
  let words: Uint32Array;

  beforeEach(() => {
    host = openHost(kind, port);
    memory = port.allocate(0x4000);
    words = new Uint32Array(memory.buffer);
  });
  afterEach(() => {
    host.close();
    memory.release();
  });

  function attached(device: VfioFunction): { device: HostDevice; space: HostSpace } {
    const opened = host.openDevice(nodes[kind](device));
    const space = host.createSpace();
    expect(space.attach(opened)).toBe(0);
    return { device: opened, space };
  }

  test('the iommu-testdev writes where the space says, and nowhere else', () => {
    const { device, space } = attached(testdev);
    const dma = new Testdev(fdOf(device));
    expect(space.map(pfnOf(IOVA), pfnOf(memory.address), 1, READ_WRITE)).toBe(0);
    expect(space.map(pfnOf(IOVA) + 1, pfnOf(memory.address) + 1, 1, READ)).toBe(0);
    expect(dma.write(IOVA + 0x40n)).toBe(true);
    expect(words[0x10]).toBe(TESTDEV_PATTERN);
    expect(dma.write(IOVA + 0x1000n), 'read-only').toBe(false);
    expect(dma.write(IOVA + 0x2000n), 'not mapped').toBe(false);
    expect(space.unmap(pfnOf(IOVA), 1)).toBe(0);
    words.fill(0);
    expect(dma.write(IOVA + 0x40n), 'unmapped').toBe(false);
    expect(words.every((word) => word === 0)).toBe(true);
  });

  test('the edu device copies between two pages, above 4 GiB too', async () => {
    const { device, space } = attached(edu);
    const dma = new Edu(fdOf(device));
    const HIGH = 0x12_3456_7000n;
    expect(space.map(pfnOf(IOVA), pfnOf(memory.address), 1, READ)).toBe(0);
    expect(space.map(pfnOf(HIGH), pfnOf(memory.address) + 2, 1, READ_WRITE)).toBe(0);
    words.fill(0xcafe_f00d, 0, 16);
    await dma.fetch(IOVA, 64);
    await dma.store(HIGH + 0x100n, 64);
    expect([...words.subarray(0x2100 / 4, 0x2140 / 4)]).toEqual(Array(16).fill(0xcafe_f00d));
    words.fill(0x1111_1111, 0, 16);
    await dma.store(IOVA, 64);
    expect(words[0], 'a write to a read-only page').toBe(0x1111_1111);
  });

  test('a program without a guest moves a message through the edu device', async () => {
    const copy = async (device: HostDevice, from: bigint, to: bigint, bytes: number) => {
      const dma = new Edu(fdOf(device));
      await dma.fetch(from, bytes);
      await dma.store(to, bytes);
    };
    expect(await sendThroughDevice(host, nodes[kind](edu), port, copy, 'over any IOMMU')).toBe('over any IOMMU');
  });
});
