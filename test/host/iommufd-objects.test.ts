import { iommufdObjects } from './iommufd-objects.ts';
import { selftestFixture } from './iommufd-objects-fixture.ts';
import { simKernelWithMock } from './mock/index.ts';

iommufdObjects('the simulated kernel', () => {
  const kernel = simKernelWithMock();
  const fixture = selftestFixture(kernel);
  return {
    ...fixture,
    close() {
      fixture.close();
      const { descriptors, pinnedBytes, domains, groupsOwned } = kernel.live();
      if (descriptors + pinnedBytes + domains + groupsOwned !== 0) throw new Error(`leaked: ${JSON.stringify(kernel.live())}`);
    },
  };
});
