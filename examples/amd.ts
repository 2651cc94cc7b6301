/** AMD-Vi with NpCache: tables and commands; a device of the host and an emulated one do DMA. `npx tsx examples/amd.ts` */
import { IommufdHost } from 'viommu/host/iommufd';
import { DMA_UNMAPPED, simKernel } from 'viommu/host/sim';
import { GuestMemory, hiOf, loOf } from 'viommu/memory';
import { AmdV1Table } from 'viommu/pagetable';
import { AmdIommu } from 'viommu/target/amd';
import { faultName, Machine } from 'viommu/vmm';

// The machine. On a real kernel: port = await openKernelPort() of viommu/host/kernel, and the path of a device of yours.
const kernel = simKernel();
const ram = kernel.allocate(1 << 24);
const memory = new GuestMemory([{ gpa: 0n, buffer: ram.buffer, hostAddress: ram.address }]);
const target = new AmdIommu({ memory });
for (const device of [0x08, 0x10]) target.addEndpoint(device);
const host = new IommufdHost(kernel);
const machine = new Machine({ memory, target, host });
const device = kernel.device();
machine.passThrough(0x08, device.path);
const nic = machine.emulate(0x10);

// The guest's driver: device table in page 1, command buffer in page 2, event log in page 3, page tables from page 4 on.
function store(at: number, ...words: bigint[]): void {
  for (const [i, word] of words.entries()) memory.store64(0, at + 8 * i, hiOf(word), loOf(word));
}
let free = 5;
const table = new AmdV1Table(memory, { levels: 3, root: 4, allocator: { allocate: () => free++, free: () => {} } });
// Device table entry (2.2.2.1): valid, translation valid, three levels, root, read and write; domain 7.
for (const requester of [0x08, 0x10]) store(0x1000 + 32 * requester, 3n | (3n << 9n) | 0x4000n | (3n << 61n), 7n);
target.write(0x00, 8, 0x1000n); // Device table base, one page.
target.write(0x08, 8, 0x2000n | (8n << 56n)); // Command buffer of 256 commands.
target.write(0x10, 8, 0x3000n | (8n << 56n)); // Event log.
target.write(0x18, 8, 1n | (1n << 2n) | (1n << 12n)); // IommuEn, EventLogEn, CmdBufEn.
let tail = 0;
function command(...words: bigint[]): void {
  store(0x2000 + tail, ...words);
  tail += 16;
  target.write(0x2008, 8, BigInt(tail));
}
for (const requester of [0x08n, 0x10n]) command((2n << 60n) | requester, 0n); // INVALIDATE_DEVTAB_ENTRY
/** INVALIDATE_IOMMU_PAGES of a page of domain 7 (2.4.3): with NpCache a new mapping is announced by it too. */
const invalidate = (pfn: number) => command((3n << 60n) | (7n << 32n), (BigInt(pfn) << 12n) | 2n);

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
