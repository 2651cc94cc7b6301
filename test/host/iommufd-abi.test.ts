import { amd, type IommuConfig, simKernel, vtd } from '../../src/host/sim/index.ts';
import type { AbiIommu } from './abi-machine.ts';
import { iommufdAbi } from './iommufd-abi.ts';

/** IOMMUs as QEMU emulates them: none of them nests. */
const machines: readonly [string, IommuConfig, AbiIommu][] = [
  ['virtio-iommu', {}, { describes: false, virtual: false }],
  ['VT-d', { nesting: vtd({ ecap: 0n }) }, { describes: true, virtual: false }],
  ['AMD-Vi', { nesting: amd({ efr: 0n }), aperture: { first: 0n, last: 0xffff_ffff_ffff_ffffn } }, { describes: true, virtual: true }],
];

for (const [name, config, iommu] of machines) {
  iommufdAbi(`the simulated kernel with ${name}`, () => {
    const port = simKernel({ iommus: [config] });
    const file = '/dev/shm/abi';
    port.createFile(file, 0x1_0000);
    return {
      port,
      file,
      iommu,
      device: port.device().path,
      close() {
        const { descriptors, pinnedBytes, domains, groupsOwned } = port.live();
        if (descriptors + pinnedBytes + domains + groupsOwned !== 0) throw new Error(`leaked: ${JSON.stringify(port.live())}`);
      },
    };
  });
}
