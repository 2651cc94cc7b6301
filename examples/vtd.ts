/** Intel VT-d with caching mode: tables and invalidations; a device of the host and an emulated one do DMA. `npx tsx examples/vtd.ts` */
import { IommufdHost } from 'viommu/host/iommufd';
import { DMA_UNMAPPED, simKernel } from 'viommu/host/sim';
import { GuestMemory, hiOf, loOf } from 'viommu/memory';
import { VtdSecondStageTable } from 'viommu/pagetable';
import { VtdIommu } from 'viommu/target/vtd';
import { faultName, Machine } from 'viommu/vmm';

// The machine. On a real kernel: port = await openKernelPort() of viommu/host/kernel, and the path of a device of yours.
const kernel = simKernel();
const ram = kernel.allocate(1 << 24);
const memory = new GuestMemory([{ gpa: 0n, buffer: ram.buffer, hostAddress: ram.address }]);
const target = new VtdIommu({}, { memory });
for (const device of [0x08, 0x10]) target.addEndpoint(device);
const host = new IommufdHost(kernel);
const machine = new Machine({ memory, target, host });
const device = kernel.device();
machine.passThrough(0x08, device.path);
const nic = machine.emulate(0x10);

// The guest's driver: root table in page 1, context table in page 2, invalidation queue in page 3, second-stage tables from page 4 on.
const store = (at: number, value: bigint) => memory.store64(0, at, hiOf(value), loOf(value));
let free = 5;
const table = new VtdSecondStageTable(memory, { levels: 4, root: 4, allocator: { allocate: () => free++, free: () => {} } });
store(0x1000, 0x2000n | 1n); // Root entry of bus 0 (9.1).
for (const requester of [0x08, 0x10]) {
  store(0x2000 + 16 * requester, 0x4000n | 1n); // Context entry (9.3): second-stage tables, present,
  store(0x2008 + 16 * requester, (7n << 8n) | 2n); // domain 7, four levels.
}
target.write(0x90, 8, 0x3000n); // IQA
target.write(0x18, 4, 1n << 26n); // GCMD.QIE
target.write(0x20, 8, 0x1000n); // RTADDR
target.write(0x18, 4, (1n << 26n) | (1n << 30n)); // SRTP
target.write(0x18, 4, (1n << 26n) | (1n << 31n)); // TE
let tail = 0;
/** IOTLB invalidation of a page of domain 7 (6.5.2.3): with caching mode a new mapping is announced by it too. */
function invalidate(pfn: number): void {
  store(0x3000 + tail, 0x32n | (7n << 16n));
  store(0x3008 + tail, BigInt(pfn) << 12n);
  tail += 16;
  target.write(0x88, 8, BigInt(tail)); // IQT
}

table.map(5, 0x42, 1, 3);
invalidate(5);
const data = Uint8Array.of(1, 2, 3);
console.log('mapped:   emulated', nic.write(0x5000n, data), 'passed through', device.dmaWrite(0x5008n, data));
console.log('arrived: ', [...new Uint8Array(ram.buffer, 0x42000, 3)], [...new Uint8Array(ram.buffer, 0x42008, 3)]);
table.unmap(5, 1);
invalidate(5);
console.log('faults:   emulated', faultName(nic.write(0x5000n, data)), 'passed through', device.dmaWrite(0x5008n, data) === DMA_UNMAPPED);
machine.close();
host.close();
