import { describe, expect, test } from 'vitest';
import { openHost } from '../../src/host/registry.ts';
import { simKernel } from '../../src/host/sim/index.ts';
import { GuestMemory } from '../../src/memory/guest-memory.ts';
import { H_PUT_TCE, HypercallRegisters, SpaprIommu } from '../../src/target/spapr/index.ts';
import { VirtioIommu } from '../../src/target/virtio-iommu/index.ts';
import { Machine } from '../../src/vmm/machine.ts';

const HOSTS = ['iommufd', 'vfio-type1'] as const;
const RAM = 16 * 4096;
const HIGH = 0x10_0000n;

/** 16 pages of RAM at 0, a device behind an sPAPR window of 64 pages, and one that is emulated. */
function pseries(hostKind: string) {
  const kernel = simKernel({ devices: [{ name: 'vfio0' }] });
  const piece = () => kernel.allocate(RAM);
  const ram = piece();
  const memory = new GuestMemory([{ gpa: 0n, buffer: ram.buffer, hostAddress: ram.address }]);
  const window = { liobn: 1, start: 0n, pageLg2: 12, pages: 64 };
  const target = new SpaprIommu({ memory, bridges: [{ buid: 1n, endpoints: [0, 8], windows: [window] }] });
  const host = openHost(hostKind, kernel);
  const machine = new Machine({ memory, target, host });
  const device = kernel.device('vfio0');
  machine.passThrough(0, hostKind === 'iommufd' ? device.path : `/dev/vfio/${device.group.number}#vfio0`);
  const emulated = machine.emulate(8);
  const put = (ioba: bigint, tce: bigint) => {
    const registers = new HypercallRegisters();
    registers.u64.set([1n, ioba, tce], 4);
    return target.hypercall(H_PUT_TCE, registers);
  };
  return { kernel, memory, target, host, machine, device, emulated, put, piece };
}

const byte = () => new Uint8Array(1);

describe.each(HOSTS)('guest memory that changes, over %s', (hostKind) => {
  test('RAM that is plugged in can be mapped; RAM that is removed is reached by nobody any more', () => {
    const { memory, machine, host, device, emulated, put, piece } = pseries(hostKind);
    expect(put(0n, HIGH | 3n)).not.toBe(0);
    const plugged = piece();
    memory.add({ gpa: HIGH, buffer: plugged.buffer, hostAddress: plugged.address });
    expect(put(0n, HIGH | 3n)).toBe(0);
    expect(put(0x1000n, 0x1003n)).toBe(0);
    expect(device.dmaWrite(0n, Uint8Array.of(7))).toBe(0);
    expect(new Uint8Array(plugged.buffer)[0]).toBe(7);
    memory.remove(HIGH);
    expect(device.dmaRead(0n, byte())).not.toBe(0);
    expect(emulated.read(0n, byte())).toBeLessThan(0);
    // What the change does not concern goes on, and so does the guest.
    expect(device.dmaRead(0x1000n, byte())).toBe(0);
    expect(put(0x2000n, 0x2003n)).toBe(0);
    expect(device.dmaRead(0x2000n, byte())).toBe(0);
    machine.close();
    host.close();
  });

  test('other memory in the same place: the device reaches the new one, not the old one', () => {
    const { memory, machine, host, device, put, piece } = pseries(hostKind);
    expect(put(0n, 0x3003n)).toBe(0);
    const other = piece();
    memory.replace({ gpa: 0n, buffer: other.buffer, hostAddress: other.address });
    expect(device.dmaWrite(5n, Uint8Array.of(9))).toBe(0);
    expect(new Uint8Array(other.buffer)[0x3005]).toBe(9);
    machine.close();
    host.close();
  });

  test('ROM is read and not written, by either kind of device', () => {
    const { memory, machine, host, device, emulated, put, piece } = pseries(hostKind);
    const rom = piece();
    new Uint8Array(rom.buffer)[0] = 0x55;
    memory.add({ gpa: HIGH, buffer: rom.buffer, hostAddress: rom.address, readOnly: true });
    expect(put(0n, HIGH | 3n)).toBe(0);
    const read = byte();
    expect(device.dmaRead(0n, read)).toBe(0);
    expect(read[0]).toBe(0x55);
    expect(device.dmaWrite(0n, Uint8Array.of(1))).not.toBe(0);
    expect(emulated.read(0n, read)).toBe(0);
    expect(emulated.write(0n, Uint8Array.of(1))).toBeLessThan(0);
    expect(new Uint8Array(rom.buffer)[0]).toBe(0x55);
    machine.close();
    host.close();
  });

  test('memory that the host does not let go is reached by no device', () => {
    const { kernel, memory, machine, host, device, put } = pseries(hostKind);
    expect(put(0n, 0x3003n)).toBe(0);
    const kind = hostKind === 'iommufd' ? 'IOMMU_IOAS_UNMAP' : 'VFIO_IOMMU_UNMAP_DMA';
    const disposers = [1, 2, 3].map((nth) => kernel.hooks.fail({ kind, nth, errno: 5 }));
    memory.remove(0n);
    expect(device.dmaRead(0n, byte())).not.toBe(0);
    expect(machine.state.endpoints[0].path).toBe('blocked');
    for (const dispose of disposers) dispose();
    machine.close();
    host.close();
  });
});

test('an endpoint that bypasses virtio-iommu reaches the RAM that there is', () => {
  const kernel = simKernel({ devices: [{ name: 'vfio0' }] });
  const [low, high] = [kernel.allocate(RAM), kernel.allocate(RAM)];
  const memory = new GuestMemory([{ gpa: 0n, buffer: low.buffer, hostAddress: low.address }]);
  const target = new VirtioIommu({ memory });
  target.addEndpoint(1);
  const host = openHost('iommufd', kernel);
  const machine = new Machine({ memory, target, host });
  machine.passThrough(1, kernel.device('vfio0').path);
  const device = kernel.device('vfio0');
  expect(device.dmaRead(HIGH, byte())).not.toBe(0);
  memory.add({ gpa: HIGH, buffer: high.buffer, hostAddress: high.address });
  expect(device.dmaRead(HIGH, byte())).toBe(0);
  memory.remove(0n);
  expect(device.dmaRead(0n, byte())).not.toBe(0);
  expect(device.dmaRead(HIGH, byte())).toBe(0);
  machine.close();
  host.close();
});
