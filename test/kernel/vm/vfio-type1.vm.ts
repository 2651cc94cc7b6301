import { Type1Host } from '../../../src/host/vfio-type1/index.ts';
import { hostContract } from '../../host/contract.ts';
import { kernelFixture } from './fixture.ts';

hostContract(
  'vfio-type1',
  () =>
    kernelFixture(
      (port) => new Type1Host(port),
      ({ group }) => group,
    ),
  {
    skip: { 'copy shares a range with another space, which outlives the first mapping': 'VFIO containers share no mappings' },
    unmapsAllOrNothing: true,
    programs: 25,
  },
);
