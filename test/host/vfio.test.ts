import { TceHost } from '../../src/host/vfio-spapr-tce/index.ts';
import { Type1Host } from '../../src/host/vfio-type1/index.ts';
import { type ContractOptions, hostContract } from './contract.ts';
import { groupPaths, simFixture } from './sim-fixture.ts';

const devices = [{ name: 'vfio0' }, { name: 'vfio1' }];
const options: ContractOptions = {
  skip: { 'copy shares a range with another space, which outlives the first mapping': 'VFIO containers share no mappings' },
  unmapsAllOrNothing: true,
};

hostContract('vfio-type1 on the simulated kernel', () => simFixture({ devices }, (kernel) => new Type1Host(kernel), groupPaths), options);

for (const version of [1, 2] as const) {
  const machine = { devices: version === 1 ? devices.slice(0, 1) : devices, iommus: [{ tce: {} }] };
  hostContract(
    `vfio-spapr-tce, version ${version}, on the simulated kernel`,
    () => simFixture(machine, (kernel) => new TceHost(kernel, version), groupPaths),
    options,
  );
}
