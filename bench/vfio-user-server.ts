import { rmSync } from 'node:fs';
import { dirname } from 'node:path';
import { GuestMemory } from '../src/memory/guest-memory.ts';
import { VtdIommu } from '../src/target/vtd/index.ts';
import { vtdFunction, vtdRegisters } from '../src/vmm/units/index.ts';
import { PciVfioDevice, VfioUserServer } from '../src/vmm/vfio-user/index.ts';

/* The other side of rows/vfio-user.ts: a VT-d unit's registers on a socket, until the client is gone. PATH TRANSPORT */

const [path = '', transport] = process.argv.slice(2);
const memory = new GuestMemory([]);
const iommu = new VtdIommu({}, { memory });
const end = () => {
  rmSync(dirname(path), { recursive: true, force: true });
  process.exit();
};
const device = new PciVfioDevice(vtdFunction(iommu, vtdRegisters(iommu, { reads: 0, writes: 0 })), { disconnected: end });
await VfioUserServer.listen({ path, device, memory, transport: transport === 'net' ? 'net' : 'native' });
process.on('SIGTERM', end);
