import { openHost } from '../../host/registry.ts';
import { amd, type IommuConfig, type SimDevice, simKernel, smmuv3, vtd } from '../../host/sim/index.ts';
import type { Rig } from './rig.ts';

/** IOVA as wide as any recorded guest's: the windows of a pseries guest begin at 2^59. */
const APERTURE = { first: 0n, last: 0xffff_ffff_ffff_ffffn };

/** IOMMUs of the host that walk a first stage too; `none` walks the kernel's tables only. */
const hardwares = {
  none: () => null,
  vtd: () => vtd(),
  smmuv3: () => smmuv3(),
  /** With queues of commands that the hardware reads by itself (NVIDIA's CMDQV). */
  'smmuv3-cmdqv': () => smmuv3({ tegra241: {} }),
  amd: () => amd(),
} as const;

export type HostHardware = keyof typeof hardwares;

export function hostHardwares(): readonly HostHardware[] {
  return Object.keys(hardwares) as HostHardware[];
}

/** A simulated kernel whose devices do every DMA. */
export function simRig(hostKind: string, devices: number, hardware: HostHardware = 'none'): Rig {
  const names = Array.from({ length: devices }, (_, i) => `vfio${i}`);
  const kernel = simKernel({ iommus: [machineOf(hostKind, hardware)], devices: names.map((name) => ({ name })) });
  const host = openHost(hostKind, kernel);
  return {
    port: kernel,
    host,
    stride: 1,
    devices: names.map((name) => {
      const device = kernel.device(name);
      return {
        path: nodeOf(hostKind, device),
        engine: { read: (iova, into) => device.dmaRead(iova, into) === 0, write: (iova, from) => device.dmaWrite(iova, from) === 0 },
      };
    }),
    close: () => host.close(),
  };
}

/** VFIO sPAPR TCE is the interface of POWER hosts, whose IOMMUs have windows. */
function machineOf(hostKind: string, hardware: HostHardware): IommuConfig {
  return hostKind === 'vfio-spapr-tce' ? { tce: {} } : { aperture: APERTURE, nesting: hardwares[hardware]() };
}

/** iommufd takes devices by their own node, the older interfaces by the node of their group. */
function nodeOf(hostKind: string, { path, group, name }: SimDevice): string {
  return hostKind === 'iommufd' ? path : `/dev/vfio/${group.number}#${name}`;
}
