import { describe, expect, test } from 'vitest';
import { Asids } from '../../../src/accel/second-stage/asids.ts';
import { IommufdHost } from '../../../src/host/iommufd/index.ts';
import { DMA_UNMAPPED, simKernel, smmuv3 } from '../../../src/host/sim/index.ts';
import { READ } from '../../../src/memory/access.ts';
import { pfnOf } from '../../../src/memory/address.ts';
import { GuestMemory } from '../../../src/memory/guest-memory.ts';
import { VirtioIommu } from '../../../src/target/virtio-iommu/index.ts';
import { Machine } from '../../../src/vmm/machine.ts';

/* IHI 0070, 5.4 (CD.ASID) and 6.3.1 (IDR0.ASID16): entries of first stages are told apart by 8 or 16 bits. */

describe('ASIDs', () => {
  test('are given out in turn, none twice at one time, and those that were somebody’s say so', () => {
    const asids = new Asids(8);
    for (let asid = 1; asid <= 255; asid++) expect(asids.take()).toEqual({ asid, isUsed: false });
    expect(asids.take()).toBeNull();
    asids.free(7);
    asids.free(3);
    expect(asids.take()).toEqual({ asid: 3, isUsed: true });
    expect(asids.take()).toEqual({ asid: 7, isUsed: true });
    expect(asids.take()).toBeNull();
  });

  test('one that was given back waits for its turn', () => {
    const asids = new Asids(16);
    expect(asids.take()?.asid).toBe(1);
    asids.free(1);
    expect(asids.take()?.asid).toBe(2);
  });
});

const ASID16 = 1 << 12;
const DEVICES = [8, 9];

/** Two devices on user-owned tables before an SMMUv3 with ASIDs of 8 bits. */
function start() {
  const idr = [(0x1aca | (1 << 19) | 3) & ~ASID16, (19 << 21) | (20 << 6) | 16, 0, 1 << 10, 0, 0x55];
  const kernel = simKernel({ iommus: [{ nesting: smmuv3({ idr }) }], devices: [{ name: 'vfio0' }, { name: 'vfio1' }] });
  const ram = kernel.allocate(512 * 4096);
  const memory = new GuestMemory([{ gpa: 0n, buffer: ram.buffer, hostAddress: ram.address }]);
  const target = new VirtioIommu({ memory, bootBypass: false });
  for (const endpoint of DEVICES) target.addEndpoint(endpoint);
  const host = new IommufdHost(kernel);
  const machine = new Machine({ memory, target, host, path: 'user-owned' });
  DEVICES.forEach((endpoint, i) => void machine.passThrough(endpoint, kernel.devices[i].path));
  target.negotiate();
  return { kernel, target, machine, ramPfn: pfnOf(ram.address) };
}

test('a space that has the ASID of one that is gone meets nothing of it in the hardware’s caches', () => {
  const { kernel, target, ramPfn, machine } = start();
  const [device, steady] = kernel.devices;
  // A space that stays has its ASID all the time.
  target.attach(1, 9);
  target.map(1, 0x1000n, 0x1fffn, 0x3000n, 3);
  const byte = new Uint8Array(1);
  for (let round = 0; round < 600; round++) {
    const domain = 2 + (round % 2);
    expect(target.attach(domain, 8)).toBe(0);
    const page = 16 + (round % 300);
    // Every second space maps nothing there: what the one before had would show.
    const isMapped = round % 2 === 0;
    if (isMapped) expect(target.map(domain, 0x1000n, 0x1fffn, BigInt(page) << 12n, 3)).toBe(0);
    expect(device.hostPfn(1, READ)).toBe(isMapped ? ramPfn + page : DMA_UNMAPPED);
    device.dmaRead(0x1000n, byte);
    expect(steady.hostPfn(1, READ)).toBe(ramPfn + 3);
    steady.dmaRead(0x1000n, byte);
  }
  machine.close();
});
