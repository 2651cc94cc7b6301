/** RISC-V IOMMU: tables and commands; a device of the host and an emulated one do DMA. `npx tsx examples/riscv.ts` */
import { StoreWatch } from 'viommu/accel';
import { IommufdHost } from 'viommu/host/iommufd';
import { DMA_UNMAPPED, simKernel } from 'viommu/host/sim';
import { GuestMemory, hiOf, loOf } from 'viommu/memory';
import { RiscvTable } from 'viommu/pagetable';
import { CQB, CQCSR, CQT, DDTP, DdtMode, RiscvIommu, riscvCapabilities } from 'viommu/target/riscv';
import { faultName, Machine } from 'viommu/vmm';

// The machine. On a real kernel: port = await openKernelPort() of viommu/host/kernel, and the path of a device of yours.
const kernel = simKernel();
const ram = kernel.allocate(1 << 24);
const memory = new GuestMemory([{ gpa: 0n, buffer: ram.buffer, hostAddress: ram.address }]);
// A passed-through device marks no page accessed or dirty, so the guest is not told that the IOMMU would.
const target = new RiscvIommu({ capabilities: riscvCapabilities({ AMO_HWAD: false }) }, { memory });
for (const device of [8, 16]) target.addEndpoint(device);
const host = new IommufdHost(kernel);
// This guest need not announce what it maps, so the emulator says when the guest stores to its tables.
const watch = new StoreWatch();
const machine = new Machine({ memory, target, host, watch });
const device = kernel.device();
machine.passThrough(8, device.path);
const nic = machine.emulate(16);

// The guest's driver: device directory in page 1, command queue in page 2, Sv39 tables from page 4 on.
function store(at: number, ...words: bigint[]): void {
  for (const [i, word] of words.entries()) memory.store64(0, at + 8 * i, hiOf(word), loOf(word));
}
let free = 5;
const table = new RiscvTable({ mode: 'sv39', memory, root: 4, allocator: { allocate: () => free++, free: () => {} } });
// Device-context: valid; no second stage; PSCID 1; Sv39 with the root in page 4.
for (const id of [8, 16]) store(0x1000 + 64 * id, 1n, 0n, 1n << 12n, (8n << 60n) | 4n);
target.write(CQB, 8, (2n << 10n) | 7n); // 256 commands.
target.write(CQCSR, 4, 1n);
target.write(DDTP, 8, (1n << 10n) | BigInt(DdtMode.oneLevel));
let tail = 0;
/** IOTINVAL.VMA of a page of PSCID 1, which is sent for what is unmapped only. */
function invalidate(pfn: number): void {
  store(0x2000 + tail * 16, 1n | (1n << 10n) | (1n << 12n) | (1n << 32n), BigInt(pfn) << 10n);
  target.write(CQT, 4, BigInt(++tail));
}

table.map(5, 0x42, 1, 3);
watch.stored(0x4000n, 3 * 4096); // As the emulator says it of every store: these were to the tables.
const data = Uint8Array.of(1, 2, 3);
console.log('mapped:   emulated', nic.write(0x5000n, data), 'passed through', device.dmaWrite(0x5008n, data));
console.log('arrived: ', [...new Uint8Array(ram.buffer, 0x42000, 3)], [...new Uint8Array(ram.buffer, 0x42008, 3)]);
table.unmap(5, 1);
invalidate(5);
console.log('faults:   emulated', faultName(nic.write(0x5000n, data)), 'passed through', device.dmaWrite(0x5008n, data) === DMA_UNMAPPED);
machine.close();
host.close();
