/** s390 zPCI: PCI instructions and tables; a function of the host and an emulated one do DMA. `npx tsx examples/zpci.ts` */
import { IommufdHost } from 'viommu/host/iommufd';
import { DMA_UNMAPPED, simKernel } from 'viommu/host/sim';
import { GuestMemory, hiOf, loOf } from 'viommu/memory';
import { GeneralRegisters, MPCIFC, ZpciIommu } from 'viommu/target/zpci';
import { faultName, Machine } from 'viommu/vmm';

// The machine. On a real kernel: port = await openKernelPort() of viommu/host/kernel, and the path of a device of yours.
const kernel = simKernel();
const ram = kernel.allocate(1 << 24);
const memory = new GuestMemory([{ gpa: 0n, buffer: ram.buffer, hostAddress: ram.address }]);
const aperture = { start: 0n, last: 0x7fff_ffffn };
const target = new ZpciIommu({ memory, functions: [1, 2].map((fid) => ({ fid, aperture })) });
const host = new IommufdHost(kernel);
const machine = new Machine({ memory, target, host });
const device = kernel.device();
machine.passThrough(1, device.path);
const nic = machine.emulate(2);

// The guest's driver: FIB in page 1, segment table from page 16 on, and its first page table in page 32.
const store = (at: number, value: bigint) => memory.store64BE(0, at, hiOf(value), loOf(value));
for (let i = 0; i < 2048; i++) store(0x10000 + 8 * i, i === 0 ? 0x20000n : 0x20n); // Other segments are invalid,
for (let i = 0; i < 256; i++) store(0x20000 + 8 * i, 0x400n); // and so are all pages.
const registers = new GeneralRegisters();
for (const fid of [1, 2]) {
  const handle = 0x2_0000 | (fid - 1);
  const block = new DataView(new ArrayBuffer(64)); // CLP set PCI function (5): enable, one DMA address space.
  block.setUint32(0, 0x0020_0005);
  block.setUint32(16, handle);
  block.setUint32(20, 1);
  block.setUint16(32, 32);
  target.clp(new Uint8Array(block.buffer));
  store(0x1010, 0n); // FIB: PBA, PAL, IOTA.
  store(0x1018, aperture.last);
  store(0x1020, 0x10000n | 0x800n);
  registers.u64[1] = (BigInt(0x8000_0000 + handle) << 32n) | BigInt(MPCIFC.registerTranslation);
  target.mpcifc(registers, 1, 0x1000n);
}
/** RPCIT of both functions: what is mapped or unmapped is announced by it. */
function refresh(pfn: number): void {
  for (const fid of [1, 2]) {
    registers.u64.set([BigInt(0x8002_0000 + fid - 1) << 32n, BigInt(pfn) << 12n, 0x1000n], 1);
    target.rpcit(registers, 1, 2);
  }
}

store(0x20000 + 8 * 5, 0x42000n);
refresh(5);
const data = Uint8Array.of(1, 2, 3);
console.log('mapped:   emulated', nic.write(0x5000n, data), 'passed through', device.dmaWrite(0x5008n, data));
console.log('arrived: ', [...new Uint8Array(ram.buffer, 0x42000, 3)], [...new Uint8Array(ram.buffer, 0x42008, 3)]);
store(0x20000 + 8 * 5, 0x400n);
refresh(5);
console.log('faults:   emulated', faultName(nic.write(0x5000n, data)), 'passed through', device.dmaWrite(0x5008n, data) === DMA_UNMAPPED);
machine.close();
host.close();
