import { simKernel } from '../../src/host/sim/index.ts';
import { vfioAbi } from './vfio-abi.ts';

vfioAbi('the simulated kernel', () => {
  const port = simKernel();
  const { group, name } = port.device();
  return {
    port,
    group: `/dev/vfio/${group.number}`,
    device: name,
    close() {
      const { descriptors, pinnedBytes, domains, groupsOwned } = port.live();
      if (descriptors + pinnedBytes + domains + groupsOwned !== 0) throw new Error(`leaked: ${JSON.stringify(port.live())}`);
    },
  };
});
