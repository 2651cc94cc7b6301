import { type IommufdDevice, IommufdHost, type IommufdSpace } from '../../../src/host/iommufd/index.ts';
import { openKernelPort } from '../../../src/host/kernel/index.ts';
import { hostContract } from '../../host/contract.ts';
import type { HostFixture } from '../../host/fixture.ts';
import { eduOracle } from '../foreign/edu-oracle.ts';
import { runCases } from '../foreign/vitest-shim.ts';
import { bindToVfio, Testdev } from '../vm/pci.ts';
import { smmuOperations } from './operations.ts';
import { changeCases } from './path-changes.ts';
import { pathCases } from './paths.ts';

/*
 * Runs inside the arm64 VM: node guest.js SMMU PART…, where a part is `contract` (the host contract, over the SMMUv3), `objects` (iommufd's objects, on
 * the kernel's mock IOMMU), `paths` (guests on the paths that hardware of two stages serves) or `operations`. A line for each result, and DONE at the end.
 */

/** A page that edu can reach and no case uses. */
const SCRATCH = 0x6_0000;

const [smmu, ...parts] = process.argv.slice(2);
const port = await openKernelPort();
const testdev = bindToVfio('0000:00:06.0').cdev;
const edu = bindToVfio('0000:00:05.0').cdev;

function contract(): void {
  const fixture = (): HostFixture => {
    const host = new IommufdHost(port);
    const dma = eduOracle(
      port,
      SCRATCH,
      () => host.openDevice(edu),
      (device) => (device as IommufdDevice).attachment as IommufdSpace | null,
    );
    return { port, host, devices: [testdev], dma, close: () => host.close() };
  };
  const noWriteOnly = { 'a read of a write-only mapping is refused': 'only a second stage has write-only pages (DDI 0487, D8.4)' };
  hostContract(`iommufd, ${smmu}`, fixture, { programs: 2, ...(smmu === 's1' ? { skip: noWriteOnly } : {}) });
}

if (parts.includes('contract')) contract();
if (parts.includes('paths')) {
  const machine = { port, path: testdev, device: (fd: number) => new Testdev(fd) };
  pathCases(machine);
  changeCases(machine);
}
if (parts.includes('objects')) await import('../vm/iommufd-objects.vm.ts');
await runCases((result) => console.log(`CASE ${JSON.stringify(result)}`));
if (parts.includes('operations')) {
  const write = (device: IommufdDevice, iova: bigint) => new Testdev(device.fd).write(iova);
  for (const line of smmuOperations({ port, path: testdev, write, patience: 200 })) console.log(`OPERATION ${line}`);
}
console.log('DONE');
