import type { HostDevice } from '../../src/host/host.ts';
import { IommufdHost } from '../../src/host/iommufd/index.ts';
import { type SimKernel, simKernel } from '../../src/host/sim/index.ts';
import { type DmaOracle, type HostFixture, hostContract } from './contract.ts';

/** A simulated device does what the case asks for. */
function simDma(kernel: SimKernel): DmaOracle {
  const of = (device: HostDevice) => kernel.device(device.name.slice(device.name.lastIndexOf('/') + 1));
  return {
    read(device, iova) {
      const bytes = new Uint8Array(4);
      return of(device).dmaRead(iova, bytes) < 0 ? null : bytes;
    },
    write: (device, iova, bytes) => of(device).dmaWrite(iova, bytes) === 0,
  };
}

function fixture(): HostFixture {
  const kernel = simKernel({ devices: [{ name: 'vfio0' }, { name: 'vfio1' }] });
  const before = kernel.live();
  const host = new IommufdHost(kernel);
  return {
    port: kernel,
    host,
    devices: kernel.devices.map(({ path }) => path),
    dma: simDma(kernel),
    close() {
      host.close();
      const { mappings, frames, ...live } = kernel.live();
      for (const [kind, count] of Object.entries(live)) if (count !== (before[kind] ?? 0)) throw new Error(`${count} ${kind} leaked`);
      if (mappings !== 1 || frames !== 1) throw new Error(`${mappings} mappings and ${frames} pieces of memory for the case's one`);
    },
  };
}

hostContract('iommufd on the simulated kernel', fixture);
