import { simKernel } from '../../src/host/sim/index.ts';
import { iommufdAbi } from './iommufd-abi.ts';

iommufdAbi('the simulated kernel', () => {
  const port = simKernel();
  const file = '/dev/shm/abi';
  port.createFile(file, 0x1_0000);
  return {
    port,
    file,
    device: port.device().path,
    close() {
      const { descriptors, pinnedBytes, domains, groupsOwned } = port.live();
      if (descriptors + pinnedBytes + domains + groupsOwned !== 0) throw new Error(`leaked: ${JSON.stringify(port.live())}`);
    },
  };
});
