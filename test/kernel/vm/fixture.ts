import { readdirSync, readlinkSync } from 'node:fs';
import type { Host, HostDevice } from '../../../src/host/host.ts';
import { openKernelPort } from '../../../src/host/kernel/index.ts';
import type { Port } from '../../../src/host/port.ts';
import type { DmaOracle, HostFixture } from '../../host/fixture.ts';
import { DmaEngine } from './dma-engine.ts';
import { bindToVfio, type VfioFunction } from './pci.ts';

const port = await openKernelPort();
const functions = ['0000:00:07.0', '0000:00:08.0'].map(bindToVfio);

/** What of VFIO and iommufd this process still has open. */
function openNodes(): string[] {
  return readdirSync('/proc/self/fd').flatMap((fd) => {
    try {
      const target = readlinkSync(`/proc/self/fd/${fd}`);
      return /vfio|iommu/.test(target) ? [target] : [];
    } catch {
      return [];
    }
  });
}

/** A case's machine on the kernel of the VM. `path`: the device, as the interface names it. */
export function kernelFixture(open: (port: Port) => Host, path: (device: VfioFunction) => string): HostFixture {
  const host = open(port);
  /** A device whose file VFIO has closed can do nothing: that is a refusal too. An opened one has to be switched on again. */
  const engine = (device: HostDevice): DmaEngine | null => {
    const { fd } = device as HostDevice & { readonly fd: number };
    return fd < 0 ? null : new DmaEngine(fd);
  };
  const dma: DmaOracle = {
    read: (device, iova) => engine(device)?.read(iova) ?? null,
    write: (device, iova, bytes) => engine(device)?.write(iova, bytes) ?? false,
  };
  return {
    port,
    host,
    devices: functions.map(path),
    dma,
    close() {
      host.close();
      const left = openNodes();
      if (left.length > 0) throw new Error(`still open: ${left.join(', ')}`);
    },
  };
}
