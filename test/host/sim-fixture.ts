import type { Host, HostDevice } from '../../src/host/host.ts';
import { type SimKernel, type SimMachine, simKernel } from '../../src/host/sim/index.ts';
import type { DmaOracle, HostFixture } from './fixture.ts';

/** A simulated device does what the case asks for. Its name is what follows the last / or # of the device's. */
function simDma(kernel: SimKernel): DmaOracle {
  const of = (device: HostDevice) => kernel.device(device.name.split(/[/#]/).at(-1));
  return {
    read(device, iova) {
      const bytes = new Uint8Array(4);
      return of(device).dmaRead(iova, bytes) < 0 ? null : bytes;
    },
    write: (device, iova, bytes) => of(device).dmaWrite(iova, bytes) === 0,
  };
}

/** A case's machine on the simulated kernel, whose close sees that nothing is left in it. `paths`: the devices, as the interface names them. */
export function simFixture(
  machine: SimMachine,
  open: (kernel: SimKernel) => Host,
  paths: (kernel: SimKernel) => string[],
): HostFixture & { readonly port: SimKernel } {
  const kernel = simKernel(machine);
  const before = kernel.live();
  const host = open(kernel);
  return {
    port: kernel,
    host,
    devices: paths(kernel),
    dma: simDma(kernel),
    close() {
      host.close();
      const { mappings, frames, ...live } = kernel.live();
      for (const [kind, count] of Object.entries(live)) if (count !== (before[kind] ?? 0)) throw new Error(`${count} ${kind} leaked`);
      if (mappings !== 1 || frames !== 1) throw new Error(`${mappings} mappings and ${frames} pieces of memory for the case's one`);
    },
  };
}

/** HostFixture.failNext, for drivers whose every operation is one call. */
export function failNext(kernel: SimKernel): (errno: number) => () => boolean {
  return (errno) => {
    const before = kernel.hooks.total;
    const off = kernel.hooks.fail({ nth: 1, errno });
    return () => {
      off();
      return kernel.hooks.total > before;
    };
  };
}

/** Devices as the group interface names them. */
export function groupPaths(kernel: SimKernel): string[] {
  return kernel.devices.map(({ group, name }) => `/dev/vfio/${group.number}#${name}`);
}
