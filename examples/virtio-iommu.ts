/** virtio-iommu: the guest's requests; a device of the host and an emulated one do DMA. `npx tsx examples/virtio-iommu.ts` */
import { IommufdHost } from 'viommu/host/iommufd';
import { DMA_UNMAPPED, simKernel } from 'viommu/host/sim';
import { GuestMemory } from 'viommu/memory';
import { statusName, VirtioIommu } from 'viommu/target/virtio-iommu';
import { faultName, Machine } from 'viommu/vmm';

// The machine. On a real kernel: port = await openKernelPort() of viommu/host/kernel, and the path of a device of yours.
const kernel = simKernel();
const ram = kernel.allocate(1 << 24);
const memory = new GuestMemory([{ gpa: 0n, buffer: ram.buffer, hostAddress: ram.address }]);
const target = new VirtioIommu({ memory, bootBypass: false });
target.addEndpoint(8, [{ kind: 'msi', start: 0xfee0_0000n, last: 0xfeef_ffffn }]);
target.addEndpoint(16);
const host = new IommufdHost(kernel);
const machine = new Machine({ memory, target, host });
const device = kernel.device();
machine.passThrough(8, device.path);
const nic = machine.emulate(16);

// The guest's driver. A VMM's transport hands virtqueues to target.device and kicks to target.notify; these calls do one request each.
target.negotiate();
const [DOMAIN, READ_WRITE] = [1, 3];
console.log('attach:  ', statusName(target.attach(DOMAIN, 8)), statusName(target.attach(DOMAIN, 16)));
target.map(DOMAIN, 0x5000n, 0x5fffn, 0x42000n, READ_WRITE);
const data = Uint8Array.of(1, 2, 3);
console.log('mapped:   emulated', nic.write(0x5000n, data), 'passed through', device.dmaWrite(0x5008n, data));
console.log('arrived: ', [...new Uint8Array(ram.buffer, 0x42000, 3)], [...new Uint8Array(ram.buffer, 0x42008, 3)]);

// UNMAP: both devices fault, and the event queue would tell the guest why.
target.unmap(DOMAIN, 0x5000n, 0x5fffn);
console.log('faults:   emulated', faultName(nic.write(0x5000n, data)), 'passed through', device.dmaWrite(0x5008n, data) === DMA_UNMAPPED);
machine.close();
host.close();
