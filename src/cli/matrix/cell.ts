import { StoreWatch } from '../../accel/store-watch.ts';
import { hostErrorOf } from '../../host/errno.ts';
import { GuestMemory } from '../../memory/guest-memory.ts';
import { Machine } from '../../vmm/machine.ts';
import { type HostHardware, simRig } from '../replay/rig-sim.ts';
import { ENDPOINT, guests, RAM_BYTES } from './guests.ts';

/** One combination: which path serves it, and what each path says of itself. */
export interface Cell {
  readonly target: string;
  readonly host: string;
  /** IOMMU of the simulated host. */
  readonly hardware: HostHardware;
  /** The path's name; null: the host refuses the device or the space. */
  readonly path: string | null;
  /** Faster paths, and why they do not serve; with `path` null, the host's refusal last. */
  readonly refused: readonly { readonly path: string; readonly reason: string }[];
  /** The guest announces mappings that become valid: without that, its tables have to be watched, or walked by the hardware. */
  readonly announced: boolean;
}

/** Makes the machine on a simulated kernel, passes a device through, and reports what the machine says. */
export function cellOf(target: string, host: string, hardware: HostHardware, path = 'auto'): Cell {
  const rig = simRig(host, 1, hardware);
  try {
    const ram = rig.port.allocate(RAM_BYTES);
    const memory = new GuestMemory([{ gpa: 0n, buffer: ram.buffer, hostAddress: ram.address }]);
    const started = guests[target].start(memory);
    const machine = new Machine({ memory, target: started, host: rig.host, path, watch: new StoreWatch() });
    const announced = started.spaceOf(ENDPOINT)?.announced ?? true;
    const told = { target, host, hardware, announced };
    try {
      machine.passThrough(ENDPOINT, rig.devices[0].path);
      const endpoint = machine.state.endpoints[ENDPOINT];
      return { ...told, path: endpoint.path, refused: endpoint.refused };
    } catch (caught) {
      const error = hostErrorOf(caught);
      return { ...told, path: null, refused: [{ path, reason: error.message }] };
    } finally {
      machine.close();
    }
  } finally {
    rig.close();
  }
}
