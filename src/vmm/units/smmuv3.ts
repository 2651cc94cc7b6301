import { requireObject } from '../../memory/arguments.ts';
import { PciFunction } from '../pci/function.ts';
import type { RegisterBlock } from '../pci/registers.ts';
import { IOMMU_CLASS } from './registers.ts';

/** Bytes of registers: pages 0 and 1 of 64 KiB (Arm IHI 0070, 6.1). */
const SMMU_REGISTER_BYTES = 0x2_0000;

/**
 * The registers behind BAR 0 of a function, for machines that have no other place for them; its pin is the event queue's wire. The third page
 * of a unit with VATOS (`Smmuv3.registerBytes`) is not in it.
 */
export function smmuFunction(registers: RegisterBlock): PciFunction {
  requireObject('smmuFunction', 'registers', registers, 'RegisterBlock', ['read', 'write']);
  return new PciFunction({
    vendor: 0x1efd,
    device: 0x0d03,
    classCode: IOMMU_CLASS,
    interruptPin: 1,
    bars: [{ bytes: SMMU_REGISTER_BYTES, registers }],
  });
}
