import { requireInteger, requireObject } from '../../memory/arguments.ts';
import { PciFunction } from '../pci/function.ts';
import type { RegisterBlock } from '../pci/registers.ts';
import { IOMMU_CLASS } from './registers.ts';

/** Bytes of registers: pages 0 and 1 of 64 KiB (Arm IHI 0070, 6.1). */
const SMMU_REGISTER_BYTES = 0x2_0000;
/** As far as IDR2.BA_VATOS can name a page. */
const LARGEST = 0x2_0000 + 0x400 * 0x1_0000;

/**
 * The registers behind BAR 0 of a function, for machines that have no other place for them; its pin is the event queue's wire. `bytes` of
 * registers (`Smmuv3.registerBytes`: with VATOS there is a third page) take the next power of two.
 */
export function smmuFunction(registers: RegisterBlock, bytes = SMMU_REGISTER_BYTES): PciFunction {
  requireObject('smmuFunction', 'registers', registers, 'RegisterBlock', ['read', 'write']);
  requireInteger('smmuFunction', 'bytes', bytes, SMMU_REGISTER_BYTES, LARGEST);
  return new PciFunction({
    vendor: 0x1efd,
    device: 0x0d03,
    classCode: IOMMU_CLASS,
    interruptPin: 1,
    bars: [{ bytes: 2 ** Math.ceil(Math.log2(bytes)), registers }],
  });
}
