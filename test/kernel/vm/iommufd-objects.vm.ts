import { openKernelPort } from '../../../src/host/kernel/index.ts';
import { iommufdObjects } from '../../host/iommufd-objects.ts';
import { selftestFixture } from '../../host/iommufd-objects-fixture.ts';

const port = await openKernelPort();

iommufdObjects('the real kernel', () => selftestFixture(port));
