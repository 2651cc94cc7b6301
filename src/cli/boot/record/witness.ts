import { GuestMemory } from '../../../memory/guest-memory.ts';
import type { Target } from '../../../target/target.ts';
import type { RegisterBlock } from '../../../vmm/pci/index.ts';

/** Sends a message to the guest's interrupt controllers. */
export type Deliver = (address: bigint, data: number) => void;

/** Whom everything between a guest and its IOMMU goes by: a Recorder writes it down, a bystander does nothing. */
export interface Witness {
  /** What the unit reads and writes. */
  readonly memory: GuestMemory;
  /** Which machine it is. `options`: numbers and texts that a replay makes the unit from. */
  machine(target: string, ramAt: bigint, endpoints: readonly number[], options: Readonly<Record<string, number | string>>): void;
  /** The unit's own interrupts. */
  sending(deliver: Deliver): Deliver;
  registers(block: RegisterBlock): RegisterBlock;
  reset(reset: () => void): void;
  /** A message of a device's, and what becomes of it. */
  message(source: number, address: bigint, data: number, deliver: Deliver, remap: (deliver: Deliver) => boolean): boolean;
  /** The target, whose translations go by too. */
  target(target: Target): Target;
}

export function bystander(): Witness {
  return {
    memory: new GuestMemory([]),
    machine: () => {},
    sending: (deliver) => deliver,
    registers: (block) => block,
    reset: (reset) => reset(),
    message: (_source, _address, _data, deliver, remap) => remap(deliver),
    target: (target) => target,
  };
}
