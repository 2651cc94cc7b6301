import { expect } from 'vitest';
import { IommufdHost } from '../../src/host/iommufd/index.ts';
import { type IommuConfig, simKernel } from '../../src/host/sim/index.ts';
import { READ_WRITE } from '../../src/memory/access.ts';
import { GuestMemory } from '../../src/memory/guest-memory.ts';
import type { TableAllocator } from '../../src/pagetable/page-table.ts';

/**
 * First stages that the guest owns, on simulated hardware that walks and remembers them: include/uapi/linux/iommufd.h for the
 * calls; VT-d 4.1 3.8, SMMUv3 (IHI 0070) 5.2 and 5.4, AMD IOMMU (48882) 2.2.6 for what the tables mean.
 */

export const GUEST_PAGES = 512;
/** Guest-physical page at which the guest keeps its tables, and one for its data. */
export const TABLES = 64;
export const DATA = 300;
/** IOVA page that the guest maps to its data. */
export const IOVA = 0x12345;

/** A guest: RAM that the kernel maps at guest-physical 0, and pages in it for tables. */
export function guest(config: IommuConfig, options: { pageRequests?: boolean } = {}) {
  const kernel = simKernel({ iommus: [config], devices: [{ name: 'vfio0', ...options }] });
  const host = new IommufdHost(kernel);
  const device = host.openDevice('/dev/vfio/devices/vfio0');
  const ram = kernel.allocate(GUEST_PAGES * 4096);
  const memory = new GuestMemory([{ gpa: 0n, buffer: ram.buffer, hostAddress: ram.address }]);
  const space = host.createSpace();
  expect(space.map(0, memory.hostPfn(0), GUEST_PAGES, READ_WRITE)).toBe(0);
  let next = TABLES;
  const allocator: TableAllocator = {
    allocate: (pages) => {
      const pfn = Math.ceil(next / pages) * pages;
      next = pfn + pages;
      return pfn;
    },
    free: () => {},
  };
  const sim = kernel.device();
  const byte = (page: number) => {
    const into = new Uint8Array(1);
    return sim.dmaRead(BigInt(page) << 12n, into) < 0 ? null : into[0];
  };
  new Uint8Array(ram.buffer).fill(0x5a, DATA * 4096, (DATA + 1) * 4096);
  new Uint8Array(ram.buffer).fill(0xa5, (DATA + 1) * 4096, (DATA + 2) * 4096);
  return { kernel, host, device, ram, memory, space, allocator, sim, byte };
}
