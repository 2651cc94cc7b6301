import type { Rig } from './rig.ts';
import { kernelRig } from './rig-kernel.ts';
import { type HostHardware, simRig } from './rig-sim.ts';

/** One line a kind of kernel that a recorded guest can run on. */
const ports = {
  sim: async (host: string, devices: number, hardware: HostHardware): Promise<Rig> => simRig(host, devices, hardware),
  kernel: kernelRig,
} as const;

export type PortName = keyof typeof ports;

export function portNames(): readonly PortName[] {
  return Object.keys(ports) as PortName[];
}

/** `hardware`: of a simulated host; a real one has its own. @throws HostError when the kernel refuses; Error that says what is missing. */
export function openRig(port: PortName, host: string, devices: number, hardware: HostHardware): Promise<Rig> {
  return ports[port](host, devices, hardware);
}
