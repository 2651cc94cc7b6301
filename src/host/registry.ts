import type { Host } from './host.ts';
import { IommufdHost } from './iommufd/index.ts';
import type { Port } from './port.ts';
import { TceHost } from './vfio-spapr-tce/index.ts';
import { Type1Host } from './vfio-type1/index.ts';

/** One line a kernel interface. */
const hosts: Readonly<Record<string, (port: Port) => Host>> = {
  iommufd: (port) => new IommufdHost(port),
  'vfio-type1': (port) => new Type1Host(port),
  'vfio-spapr-tce': (port) => new TceHost(port),
};

/** Kernel interfaces that there is a driver for. */
export function hostKinds(): readonly string[] {
  return Object.keys(hosts);
}

/** Opens a kernel interface by name. @throws RangeError for a name that is none; HostError when the kernel refuses. */
export function openHost(kind: string, port: Port): Host {
  const open = Object.hasOwn(hosts, kind) ? hosts[kind] : undefined;
  if (open === undefined)
    throw new RangeError(`openHost: no host interface is called '${String(kind)}'; there are ${hostKinds().join(', ')}`);
  return open(port);
}
