import { IommufdHost } from '../../../src/host/iommufd/index.ts';
import { hostContract } from '../../host/contract.ts';
import { kernelFixture } from './fixture.ts';

hostContract(
  'iommufd',
  () =>
    kernelFixture(
      (port) => new IommufdHost(port),
      ({ cdev }) => cdev,
    ),
  { programs: 25 },
);
