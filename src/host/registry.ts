import type { Host } from './host.ts';
import { IommufdHost } from './iommufd/index.ts';
import type { Port } from './port.ts';

/** One line a kernel interface. */
const hosts: Readonly<Record<string, (port: Port) => Host>> = {
  iommufd: (port) => new IommufdHost(port),
};

/** Kernel interfaces that there is a driver for. */
export function hostKinds(): readonly string[] {
  return Object.keys(hosts);
}

/** Opens a kernel interface by name. @throws RangeError for a name that is none; HostError when the kernel refuses. */
export function openHost(kind: string, port: Port): Host {
  const open = Object.hasOwn(hosts, kind) ? hosts[kind] : undefined;
  if (open === undefined) throw new RangeError(`no host interface is called '${kind}'; there are ${hostKinds().join(', ')}`);
  return open(port);
}
