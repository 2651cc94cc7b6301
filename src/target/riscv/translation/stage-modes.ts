import type { RiscvMode } from '../../../pagetable/riscv.ts';
import type { Registers } from '../control/registers.ts';
import { IohgatpMode, IosatpMode } from '../spec/device-context.ts';
import { Cap } from '../spec/registers.ts';

/** The table format that iosatp.MODE encodes; null: Bare, undefined: no valid encoding or not supported. */
export function firstStageMode(registers: Registers, mode: number, sxl: boolean): RiscvMode | null | undefined {
  if (mode === IosatpMode.bare) return null;
  if (sxl) return mode === IosatpMode.sv32 && registers.can(Cap.sv32) ? 'sv32' : undefined;
  if (mode === IosatpMode.sv39) return registers.can(Cap.sv39) ? 'sv39' : undefined;
  if (mode === IosatpMode.sv48) return registers.can(Cap.sv48) ? 'sv48' : undefined;
  return mode === IosatpMode.sv57 && registers.can(Cap.sv57) ? 'sv57' : undefined;
}

/** The same of iohgatp.MODE. */
export function secondStageMode(registers: Registers, mode: number): RiscvMode | null | undefined {
  if (mode === IohgatpMode.bare) return null;
  if (registers.guest32) return mode === IohgatpMode.sv32x4 && registers.can(Cap.sv32x4) ? 'sv32' : undefined;
  if (mode === IohgatpMode.sv39x4) return registers.can(Cap.sv39x4) ? 'sv39' : undefined;
  if (mode === IohgatpMode.sv48x4) return registers.can(Cap.sv48x4) ? 'sv48' : undefined;
  return mode === IohgatpMode.sv57x4 && registers.can(Cap.sv57x4) ? 'sv57' : undefined;
}
