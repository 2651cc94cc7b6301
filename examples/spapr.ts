/** PPC sPAPR TCE: the guest maps by hypercall; a device of the host and an emulated one do DMA. `npx tsx examples/spapr.ts` */
import { IommufdHost } from 'viommu/host/iommufd';
import { DMA_UNMAPPED, simKernel } from 'viommu/host/sim';
import { GuestMemory } from 'viommu/memory';
import { H_PUT_TCE, HypercallRegisters, SpaprIommu } from 'viommu/target/spapr';
import { faultName, Machine } from 'viommu/vmm';

// The machine. On a real kernel: port = await openKernelPort() of viommu/host/kernel, and the path of a device of yours.
const kernel = simKernel();
const ram = kernel.allocate(1 << 24);
const memory = new GuestMemory([{ gpa: 0n, buffer: ram.buffer, hostAddress: ram.address }]);
const LIOBN = 0x8000_0000;
const window = { liobn: LIOBN, start: 0n, pageLg2: 12, pages: 1 << 18 };
const target = new SpaprIommu({ memory, bridges: [{ buid: 0x8000_0002_0000_000n, endpoints: [0x800, 0x1000], windows: [window] }] });
const host = new IommufdHost(kernel);
const machine = new Machine({ memory, target, host });
const device = kernel.device();
machine.passThrough(0x800, device.path);
const nic = machine.emulate(0x1000);

/** The guest's driver: H_PUT_TCE with window, bus address and TCE in R4, R5 and R6. */
const registers = new HypercallRegisters();
function putTce(ioba: bigint, tce: bigint): number {
  registers.u64.set([BigInt(LIOBN), ioba, tce], 4);
  return target.hypercall(H_PUT_TCE, registers);
}

// It maps bus page 5 to guest page 0x42, for reading and writing.
putTce(0x5000n, 0x42003n);
const data = Uint8Array.of(1, 2, 3);
console.log('mapped:   emulated', nic.write(0x5000n, data), 'passed through', device.dmaWrite(0x5008n, data));
console.log('arrived: ', [...new Uint8Array(ram.buffer, 0x42000, 3)], [...new Uint8Array(ram.buffer, 0x42008, 3)]);

// It unmaps the page: both devices fault.
putTce(0x5000n, 0n);
console.log('faults:   emulated', faultName(nic.write(0x5000n, data)), 'passed through', device.dmaWrite(0x5008n, data) === DMA_UNMAPPED);
machine.close();
host.close();
