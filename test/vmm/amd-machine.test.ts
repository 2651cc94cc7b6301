import { describe, expect, test } from 'vitest';
import { openHost } from '../../src/host/registry.ts';
import { amd, type IommuConfig, simKernel } from '../../src/host/sim/index.ts';
import { GuestMemory } from '../../src/memory/guest-memory.ts';
import type { AmdIommuOptions } from '../../src/target/amd/index.ts';
import { Machine } from '../../src/vmm/index.ts';
import { completionWait, Guest, invalidateAll, invalidateDevice, invalidatePages, RAM_PAGES } from '../target/amd/guest.ts';

const DEVICE = 0x28;
const SECOND = 0x30;
const RAM = RAM_PAGES * 4096;

/** Two devices of a guest that has set its IOMMU up, passed through to a simulated host. */
function machine() {
  const made = unconnected({});
  const { kernel, guest, vm, host } = made;
  vm.passThrough(DEVICE, kernel.device('vfio0').path);
  vm.passThrough(SECOND, kernel.device('vfio1').path);
  const calls = () => host.calls.map + host.calls.unmap;
  return { ...made, guest, calls };
}

/** The same before anything is passed through. */
function unconnected(options: Partial<AmdIommuOptions>, nesting: IommuConfig['nesting'] = null, path?: string) {
  const kernel = simKernel({ iommus: [{ nesting }], devices: [{ name: 'vfio0' }, { name: 'vfio1' }] });
  const { buffer, address } = kernel.allocate(RAM);
  const memory = new GuestMemory([{ gpa: 0n, buffer, bytes: RAM, hostAddress: address }]);
  const guest = new Guest(options, memory);
  for (const device of [DEVICE, SECOND]) guest.iommu.addEndpoint(device);
  const host = openHost('iommufd', kernel);
  const vm = new Machine({ memory, target: guest.iommu, host, ...(path && { path }) });
  guest.start();
  const { root, table } = guest.v1(3);
  for (const device of [DEVICE, SECOND]) guest.setDevice(device, { mode: 3, root, domain: 7 });
  guest.command(invalidateAll(), completionWait());
  return { kernel, guest, table, host, vm };
}

describe('a guest with an AMD IOMMU on iommufd', () => {
  test('512 pages of 4 KiB under one invalidation of 2 MiB are one host call, and cleared one (QEMU: 512 each)', () => {
    const { guest, table, calls, kernel } = machine();
    const before = calls();
    for (let i = 0; i < 512; i++) table.map(0x200 + i, i, 1, 3);
    guest.command(invalidatePages(7, 0x200, 21), completionWait());
    expect(calls() - before).toBe(1);
    const device = kernel.device('vfio0');
    expect(device.dmaWrite(0x20_0000n + 0x9000n, Uint8Array.of(1, 2, 3))).toBe(0);
    expect(guest.load(0x9000n) & 0xff_ffffn).toBe(0x03_0201n);
    table.unmap(0x200, 512);
    guest.command(invalidatePages(7, 0x200, 21), completionWait());
    expect(calls() - before).toBe(2);
    expect(device.dmaWrite(0x20_9000n, Uint8Array.of(1))).toBeLessThan(0);
  });

  test('an invalidation of one page takes all of the large page that covered it off the hardware', () => {
    const { guest, table, kernel } = machine();
    table.map(0x200, 0, 512, 3);
    guest.command(invalidatePages(7, 0x200, 21), completionWait());
    const device = kernel.device('vfio0');
    expect(device.dmaRead(0x3f_f000n, new Uint8Array(4))).toBe(0);
    table.unmap(0x200, 512);
    guest.command(invalidatePages(7, 0x200, 12), completionWait());
    expect(device.dmaRead(0x3f_f000n, new Uint8Array(4))).toBeLessThan(0);
    expect(guest.access(DEVICE, 0x3f_f000n, 1)).toBeLessThan(0n);
  });

  test('devices of one domain share what the host has; one that leaves it reaches nothing of it', () => {
    const { guest, table, calls, kernel, vm } = machine();
    const before = calls();
    table.map(0x300, 0x20, 4, 3);
    guest.command(invalidatePages(7, 0x300, 14), completionWait());
    expect(calls() - before).toBe(1);
    const [first, second] = ['vfio0', 'vfio1'].map((name) => kernel.device(name));
    for (const device of [first, second]) expect(device.dmaRead(0x30_0000n, new Uint8Array(4))).toBe(0);
    guest.setDevice(SECOND, { tv: false });
    guest.command(invalidateDevice(SECOND), completionWait());
    expect(second.dmaRead(0x30_0000n, new Uint8Array(4))).toBeLessThan(0);
    expect(first.dmaRead(0x30_0000n, new Uint8Array(4))).toBe(0);
    vm.close();
  });

  test('without NpCache mappings are not announced, and a device is refused by that name', () => {
    const { vm, kernel } = unconnected({ npCache: false });
    expect(() => vm.passThrough(DEVICE, kernel.device('vfio0').path)).toThrow(/announce/);
  });

  test.each(['nested', 'user-owned'])('%s is refused on an AMD host of today, with the reason', (path) => {
    const { vm, kernel, guest } = unconnected({}, amd(), path);
    const { root } = guest.v2();
    const gcr3 = guest.pool.allocate(1);
    guest.store(BigInt(gcr3) << 12n, (BigInt(root) << 12n) | 1n);
    guest.setDevice(DEVICE, { gcr3, giov: true, domain: 9 });
    guest.command(invalidateDevice(DEVICE), completionWait());
    expect(() => vm.passThrough(DEVICE, kernel.device('vfio0').path)).toThrow(/invalidat/);
  });
});
