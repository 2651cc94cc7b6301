import { describe, expect, test } from 'vitest';
import type { PortMemory } from '../../src/host/port.ts';
import { openHost } from '../../src/host/registry.ts';
import { type SimKernel, simKernel, vtd } from '../../src/host/sim/index.ts';
import { GuestMemory } from '../../src/memory/guest-memory.ts';
import { VirtioIommu } from '../../src/target/virtio-iommu/index.ts';
import { Machine } from '../../src/vmm/machine.ts';

/** Registers of a device (a BAR) as a region of guest memory: DMA of one device to another. */

const RAM = 16 * 4096;
const BAR = 0x1000_0000n;
const byte = () => new Uint8Array(1);

const hostPath = (kernel: SimKernel, kind: string, name: string) =>
  kind === 'iommufd' ? kernel.device(name).path : `/dev/vfio/${kernel.device(name).group.number}#${name}`;

function machineOf(kind: string, path = 'auto', bootBypass = false) {
  const iommu = kind === 'vfio-spapr-tce' ? { tce: {} } : path === 'user-owned' ? { nesting: vtd() } : {};
  const kernel = simKernel({ iommus: [iommu], devices: [{ name: 'vfio0' }, { name: 'vfio1' }] });
  const ram = kernel.allocate(RAM);
  const memory = new GuestMemory([{ gpa: 0n, buffer: ram.buffer, hostAddress: ram.address }]);
  const target = new VirtioIommu({ memory, bootBypass, inputRange: { start: 0n, last: 0x7fff_ffffn } });
  for (const endpoint of [0, 1, 8]) target.addEndpoint(endpoint);
  const host = openHost(kind, kernel);
  const machine = new Machine({ memory, target, host, path });
  return { kernel, memory, target, host, machine, device: kernel.device('vfio0') };
}

function guestOf(kind: string, path = 'auto') {
  const made = machineOf(kind, path);
  const { kernel, target, machine } = made;
  machine.passThrough(0, hostPath(kernel, kind, 'vfio0'));
  const other = machine.passThrough(1, hostPath(kernel, kind, 'vfio1'));
  const emulated = machine.emulate(8);
  target.negotiate();
  for (const endpoint of [0, 1, 8]) expect(target.attach(1, endpoint)).toBe(0);
  const bar = kernel.mmap((other as unknown as { fd: number }).fd, 4096, 0n) as PortMemory;
  const registers = { gpa: BAR, buffer: bar.buffer, hostAddress: bar.address, registersOf: 'vfio1' };
  const map = (iova: bigint, gpa: bigint) => target.map(1, iova, iova + 0xfffn, gpa, 3);
  const reasons = () => machine.state.endpoints[0].refused.map(({ reason }) => reason).filter((reason) => reason.includes('registers'));
  return { ...made, emulated, bar, registers, map, reasons };
}

describe('registers of a device', () => {
  test('are mapped by address where the host can (vfio-type1), and gone with the region', () => {
    const { memory, machine, host, device, bar, registers, map, reasons } = guestOf('vfio-type1');
    memory.add(registers);
    expect(map(0x5000n, BAR)).toBe(0);
    expect(device.dmaWrite(0x5010n, Uint8Array.of(7))).toBe(0);
    expect(new Uint8Array(bar.buffer)[0x10]).toBe(7);
    expect(reasons()).toEqual([]);
    memory.remove(BAR);
    expect(device.dmaRead(0x5010n, byte())).not.toBe(0);
    bar.release();
    machine.close();
    host.close();
  });

  test('are mapped by file where the host takes one (iommufd)', () => {
    const { kernel, memory, device, map, reasons } = guestOf('iommufd');
    kernel.createFile('/dev/shm/dma-buf', 4096);
    const fd = kernel.open('/dev/shm/dma-buf');
    const bar = kernel.mmap(fd, 4096, 0n) as PortMemory;
    memory.add({ gpa: BAR, buffer: bar.buffer, hostAddress: bar.address, registersOf: 'vfio1', file: { fd, offset: 0n } });
    expect(map(0x5000n, BAR)).toBe(0);
    expect(device.dmaWrite(0x5010n, Uint8Array.of(7))).toBe(0);
    expect(new Uint8Array(bar.buffer)[0x10]).toBe(7);
    expect(kernel.hooks.counts.get('IOMMU_IOAS_MAP_FILE')).toBe(1);
    expect(reasons()).toEqual([]);
  });

  test.each([
    ['iommufd', 'shadow'],
    ['iommufd', 'user-owned'],
    ['vfio-spapr-tce', 'shadow'],
  ])(
    'where the host cannot (%s, %s) they are refused by name, RAM beside them is not, and no operation of the guest fails',
    (kind, path) => {
      const { memory, machine, host, device, emulated, bar, registers, map, reasons } = guestOf(kind, path);
      expect(map(0x5000n, 0x3000n)).toBe(0);
      memory.add(registers);
      expect(map(0x6000n, BAR)).toBe(0);
      expect(device.dmaRead(0x6000n, byte())).not.toBe(0);
      expect(device.dmaRead(0x5000n, byte())).toBe(0);
      expect(machine.state.endpoints[0].path).toBe(path);
      expect(reasons()).toEqual(['registers of vfio1 at 0x10000000: the host does not map them for other devices (EFAULT)']);
      expect(emulated.write(0x6004n, Uint8Array.of(9))).toBe(0);
      expect(new Uint8Array(bar.buffer)[4]).toBe(9);
      expect(map(0x7000n, 0x4000n)).toBe(0);
      memory.remove(BAR);
      expect(reasons()).toEqual([]);
      bar.release();
      machine.close();
      host.close();
    },
  );

  test('in bypass, there before the device: it comes without them', () => {
    const { kernel, memory, machine, device } = machineOf('iommufd', 'shadow', true);
    const other = machine.passThrough(1, kernel.device('vfio1').path);
    const bar = kernel.mmap((other as unknown as { fd: number }).fd, 4096, 0n) as PortMemory;
    machine.remove(1);
    memory.add({ gpa: BAR, buffer: bar.buffer, hostAddress: bar.address, registersOf: 'vfio1' });
    machine.passThrough(0, device.path);
    expect(device.dmaRead(0x3000n, byte())).toBe(0);
    expect(device.dmaRead(BAR, byte())).not.toBe(0);
    expect(machine.state.endpoints[0].refused.at(-1)?.reason).toContain('registers of vfio1 at 0x10000000');
  });

  test('a failure that is not of that kind is one of the operation', () => {
    const { kernel, memory, registers, map } = guestOf('vfio-type1');
    memory.add(registers);
    kernel.hooks.fail({ kind: 'VFIO_IOMMU_MAP_DMA', nth: 1, errno: 12 });
    expect(map(0x5000n, BAR)).not.toBe(0);
    expect(map(0x5000n, BAR)).toBe(0);
  });

  test('beside RAM that is contiguous in the host they have a mapping of their own; they are never dirty', () => {
    const kernel = simKernel();
    const both = kernel.allocate(2 * 4096);
    const memory = new GuestMemory([
      { gpa: 0n, buffer: both.buffer, bytes: 4096, hostAddress: both.address },
      { gpa: 0x1000n, buffer: both.buffer, offset: 4096, hostAddress: both.address + 4096n, registersOf: 'vfio1' },
    ]);
    expect([memory.hostRun(0, 2), memory.hostRun(1, 1)]).toEqual([1, 1]);
    const [log] = memory.logWrites();
    memory.store32(0, 0x1000, 1);
    memory.wrote(0, 2);
    expect(log.since(0)).toEqual([{ first: 0, last: 0 }]);
  });

  test('a name that is no string is a TypeError', () => {
    const region = { gpa: 0n, buffer: new SharedArrayBuffer(4096), registersOf: 7 as unknown as string };
    expect(() => new GuestMemory([region])).toThrow('GuestMemory: registersOf 7 is no string');
  });
});
