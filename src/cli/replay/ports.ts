import type { Rig } from './rig.ts';
import { kernelRig } from './rig-kernel.ts';
import { simRig } from './rig-sim.ts';

/** One line a kind of kernel that a recorded guest can run on. */
const ports = {
  sim: async (host: string, devices: number): Promise<Rig> => simRig(host, devices),
  kernel: kernelRig,
} as const;

export type PortName = keyof typeof ports;

export function portNames(): readonly PortName[] {
  return Object.keys(ports) as PortName[];
}

/** @throws HostError when the kernel refuses; Error that says what is missing. */
export function openRig(port: PortName, host: string, devices: number): Promise<Rig> {
  return ports[port](host, devices);
}
