import { IommufdHost } from '../../src/host/iommufd/index.ts';
import { hostContract } from './contract.ts';
import { failNext, simFixture } from './sim-fixture.ts';

const machine = { devices: [{ name: 'vfio0' }, { name: 'vfio1' }] };

hostContract('iommufd on the simulated kernel', () => {
  const fixture = simFixture(
    machine,
    (kernel) => new IommufdHost(kernel),
    (kernel) => kernel.devices.map(({ path }) => path),
  );
  return { ...fixture, failNext: failNext(fixture.port) };
});
