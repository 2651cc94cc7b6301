/** Arm SMMUv3: a stream table and stage-2 tables; a device of the host and an emulated one do DMA. `npx tsx examples/smmuv3.ts` */
import { StoreWatch } from 'viommu/accel';
import { IommufdHost } from 'viommu/host/iommufd';
import { DMA_UNMAPPED, simKernel } from 'viommu/host/sim';
import { GuestMemory, hiOf, loOf } from 'viommu/memory';
import { ArmTable } from 'viommu/pagetable';
import { Smmuv3 } from 'viommu/target/smmuv3';
import { faultName, Machine } from 'viommu/vmm';

// The machine. On a real kernel: port = await openKernelPort() of viommu/host/kernel, and the path of a device of yours.
const kernel = simKernel();
const ram = kernel.allocate(1 << 24);
const memory = new GuestMemory([{ gpa: 0n, buffer: ram.buffer, hostAddress: ram.address }]);
const target = new Smmuv3({ memory });
for (const stream of [8, 16]) target.addEndpoint(stream);
const host = new IommufdHost(kernel);
// This guest need not announce what it maps, so the emulator says when the guest stores to its tables.
const watch = new StoreWatch();
const machine = new Machine({ memory, target, host, watch });
const device = kernel.device();
machine.passThrough(8, device.path);
const nic = machine.emulate(16);

// The guest's driver: stream table of 256 entries in pages 4 to 7, commands in page 8, events in page 10, tables from page 16 on.
function store(at: number, ...words: bigint[]): void {
  for (const [i, word] of words.entries()) memory.store64(0, at + 8 * i, hiOf(word), loOf(word));
}
let free = 17;
const config = { stage: 2, granuleLg2: 12, inputBits: 39, outputBits: 48, root: 0x10000n, accessFlag: 'ignore' } as const;
const table = new ArmTable(memory, { ...config, allocator: { allocate: () => free++, free: () => {} } });
// STE (5.2): valid, stage 2 only; VMID 1, 39 bits from level 1 on, 48 bits out, AArch64 tables, access flags do not count; the root.
const stage2 = 1n | (25n << 32n) | (1n << 38n) | (5n << 48n) | (1n << 51n) | (1n << 53n);
for (const stream of [8, 16]) store(0x4000 + 64 * stream, 1n | (6n << 1n), 0n, stage2, 0x10000n);
target.write(0x80, 8, 0x4000n); // STRTAB_BASE
target.write(0x88, 4, 8n); // STRTAB_BASE_CFG
target.write(0x90, 8, 0x8000n | 8n); // CMDQ_BASE
target.write(0xa0, 8, 0xa000n | 8n); // EVENTQ_BASE
target.write(0x20, 4, 0b1101n); // CR0: SMMUEN, EVENTQEN, CMDQEN
let produced = 0;
/** CMD_TLBI_S2_IPA of a page of VMID 1, which is sent for what is unmapped only. */
function invalidate(pfn: number): void {
  store(0x8000 + 16 * produced++, 0x2an | (1n << 32n), BigInt(pfn) << 12n);
  target.write(0x98, 4, BigInt(produced)); // CMDQ_PROD
}

table.map(5, 0x42, 1, 3);
watch.stored(0x10000n, 3 * 4096); // As the emulator says it of every store: these were to the tables.
const data = Uint8Array.of(1, 2, 3);
console.log('mapped:   emulated', nic.write(0x5000n, data), 'passed through', device.dmaWrite(0x5008n, data));
console.log('arrived: ', [...new Uint8Array(ram.buffer, 0x42000, 3)], [...new Uint8Array(ram.buffer, 0x42008, 3)]);
table.unmap(5, 1);
invalidate(5);
console.log('faults:   emulated', faultName(nic.write(0x5000n, data)), 'passed through', device.dmaWrite(0x5008n, data) === DMA_UNMAPPED);
machine.close();
host.close();
