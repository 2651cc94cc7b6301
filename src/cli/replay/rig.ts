import { inputPages } from '../../accel/user-owned/stage-format.ts';
import { errno, HostError } from '../../host/errno.ts';
import type { Host, IovaRange } from '../../host/host.ts';
import type { Port } from '../../host/port.ts';
import { outOfReach } from '../../host/reach.ts';
import { addressOfPfn } from '../../memory/address.ts';

/** The DMA of one passed-through device, done for real: false when the hardware refused it. */
export interface DmaEngine {
  /** null: the device can only write. */
  readonly read: ((iova: bigint, into: Uint8Array) => boolean) | null;
  /** Writes `from`; a device that has a pattern of its own writes as much of it, and puts it into `from`. */
  write(iova: bigint, from: Uint8Array): boolean;
}

/** A device of the host that can be passed through: its node for the host interface, and its DMA. */
export interface RigDevice {
  readonly path: string;
  readonly engine: DmaEngine;
}

/** What a recorded guest runs on: a kernel, its host interface, and devices to pass through. */
export interface Rig {
  readonly port: Port;
  readonly host: Host;
  readonly devices: readonly RigDevice[];
  /** The devices do every how many-th recorded DMA; 1 where they are quick. */
  readonly stride: number;
  close(): void;
}

/** @throws HostError where the host's pages for a device begin behind those that its guest is promised, or end before them. */
export function requireReach({ host }: Rig, device: RigDevice, promised: readonly IovaRange[]): void {
  const opened = host.openDevice(device.path);
  try {
    const missing = outOfReach(host.reach(opened, promised), promised);
    if (missing !== undefined) throw new HostError('reach', errno.ERANGE, missing, 'pages that the guest is promised');
  } finally {
    opened.close();
  }
}

/** The bus address that devices do not reach any more by first stages of ours; null: the path, or the hardware, has none. @throws HostError */
export function firstStageEnd({ host, devices }: Rig, path: string): bigint | null {
  if (path === 'shadow' || host.nesting === undefined || devices.length === 0) return null;
  const device = host.openDevice(devices[0].path);
  const hardware = host.nesting.hardwareOf(device);
  device.close();
  return typeof hardware === 'string' ? null : addressOfPfn(inputPages(hardware));
}
