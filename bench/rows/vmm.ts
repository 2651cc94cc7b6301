import { READ_WRITE } from '../../src/memory/access.ts';
import { GuestMemory } from '../../src/memory/guest-memory.ts';
import { VtdIommu } from '../../src/target/vtd/index.ts';
import { F_VERSION_1 } from '../../src/virtqueue/spec.ts';
import { MemoryBackend, VirtioBlock } from '../../src/vmm/devices/index.ts';
import { PciHost, requesterId } from '../../src/vmm/pci/index.ts';
import { TranslatedMemory } from '../../src/vmm/translated-memory.ts';
import { countedRegisters, vtdFunction } from '../../src/vmm/units/index.ts';
import { F_ACCESS_PLATFORM } from '../../src/vmm/virtio/index.ts';
import { contextDevice, Guest, iotlbGlobal, wait } from '../../test/target/vtd/guest.ts';
import { SplitDriver } from '../../test/virtqueue/driver.ts';
import type { Row, Work } from '../row.ts';

const DEVICE = 0x28;

/** Reads a register of a VT-d unit where the processor would: by address, through the host bridge and the function's BAR. */
function mmio(): Work {
  const iommu = new VtdIommu({}, { memory: GuestMemory.ofBytes(1 << 16) });
  const host = new PciHost();
  const fn = vtdFunction(iommu, countedRegisters(iommu, { reads: 0, writes: 0 }));
  host.add(requesterId(0, 4), fn);
  fn.writeConfig(0x10, 4, 0xfebf_c000);
  fn.writeConfig(4, 2, 2);
  const operations = 2000;
  const batch = () => {
    let sum = 0;
    for (let i = 0; i < operations; i++) sum = (sum + Number(host.readMemory(0xfebf_c000n + BigInt((i & 1) * 4), 4))) | 0;
    return sum;
  };
  return { operations, batch };
}

const REQUEST_BYTES = 3584;
const RING_PFN = 256;

/** Reads of 3.5 KiB from a disk in memory, by a virtio driver whose ring and buffers lie behind a VT-d unit, or in guest memory as it is. */
function block(translated: boolean): Work {
  const pages = 1024;
  const memory = GuestMemory.ofBytes(pages * 4096);
  const guest = new Guest({}, pages, {}, memory);
  guest.iommu.addEndpoint(DEVICE);
  const { root, table } = guest.secondStage();
  guest.setContext(DEVICE, { root, did: 1 });
  table.map(RING_PFN, RING_PFN, 512, READ_WRITE);
  guest.start();
  guest.submit(contextDevice(DEVICE), iotlbGlobal, wait());
  const reached = translated ? new TranslatedMemory(DEVICE, guest.iommu, memory) : memory;
  const disk = new VirtioBlock(reached, new MemoryBackend(1 << 20), () => {});
  const { device } = disk;
  device.status = 3;
  device.driverFeatures = F_VERSION_1 | F_ACCESS_PLATFORM;
  device.status = 11;
  const driver = new SplitDriver(memory, RING_PFN * 4096, 64);
  device.setQueue(0, driver.setup);
  device.status = 15;
  const operations = 16;
  const before = () => {
    for (let i = 0; i < operations; i++) driver.add({ readable: new Uint8Array(16), writable: REQUEST_BYTES + 1 });
  };
  const batch = () => {
    disk.notify(0);
    return driver.collect().reduce((sum, { written, bytes }) => (sum + written + bytes.at(-1)!) | 0, 0);
  };
  return { operations, before, batch };
}

const variant = (name: string, setup: () => Work) => ({ name, goal: null, baseline: null, setup });

export const mmioDispatch: Row = { name: 'mmio-dispatch', baseline: null, variants: [variant('VT-d register, by address', mmio)] };

export const blockRead: Row = {
  name: 'virtio-block-read',
  baseline: null,
  variants: [variant('3.5 KiB, through VT-d', () => block(true)), variant('3.5 KiB, no IOMMU', () => block(false))],
};
